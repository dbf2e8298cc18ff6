//! Compares the public items of each published crate with the list in `docs/surface`.
//!
//! The lists are made from the JSON that rustdoc writes, by the crate `public-api`. Another version of Rust can describe the same
//! items in another way. So the first line of a list names the version that it was made with, and other versions skip the check.

mod listing;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use lexopt::prelude::*;
use serde_json::Value;

const USAGE: &str = "\
Compares the public items of each published crate with the list in docs/surface.

Usage: amqp-surface [--renew]

Options:
  --renew   Writes the lists instead of comparing them
  --help    Shows this text";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match parse().and_then(|renew| renew.map_or_else(usage, check)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            println!(
                "If this is what you want, renew the lists: cargo run -p amqp-surface -- --renew"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("amqp-surface: {error}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether to renew the lists; `None` asks for help.
fn parse() -> Result<Option<bool>> {
    let mut renew = false;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("renew") => renew = true,
            Long("help") | Short('h') => return Ok(None),
            _ => return Err(argument.unexpected().into()),
        }
    }
    Ok(Some(renew))
}

fn usage() -> Result<bool> {
    println!("{USAGE}");
    Ok(true)
}

/// Compares or renews the list of each crate. Returns whether they are as they should be.
fn check(renew: bool) -> Result<bool> {
    let workspace = Workspace::load()?;
    let rust = rust_version()?;
    let mut as_listed = true;
    for package in &workspace.published {
        let file = workspace.root.join("docs/surface").join(format!("{package}.txt"));
        let title = format!("# Public items of {package} with all features, by Rust {rust}");
        let listed = fs::read_to_string(&file).unwrap_or_default();
        let listed: Vec<&str> = listed.lines().collect();
        if let (false, Some(first)) = (renew, listed.first().filter(|first| **first != title)) {
            println!(
                "{package}: skipped, because this is Rust {rust}, and the list says \"{first}\""
            );
            continue;
        }
        let items = listing::items(&workspace.document(package)?)?;
        println!("{package}: {} lines", items.len());
        if renew {
            fs::write(&file, format!("{title}\n{}\n", items.join("\n")))?;
        } else {
            let differences = listing::differences(listed.get(1..).unwrap_or_default(), &items);
            differences.iter().for_each(|line| println!("  {line}"));
            as_listed &= differences.is_empty();
        }
    }
    Ok(as_listed)
}

/// Cargo's metadata of the workspace.
struct Workspace {
    root: PathBuf,
    target: PathBuf,
    published: Vec<String>,
}

impl Workspace {
    fn load() -> Result<Self> {
        let json =
            run(Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]))?;
        let metadata: Value = serde_json::from_str(&json)?;
        let path =
            |key: &str| metadata[key].as_str().map(PathBuf::from).ok_or_else(|| key.to_owned());
        // `publish` is null for a crate that may be published to any registry, and an empty list for `publish = false`.
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let published = packages
            .filter(|package| package["publish"].is_null())
            .filter_map(|package| package["name"].as_str().map(str::to_owned))
            .collect();
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")?, published })
    }

    /// Documents a crate as JSON. Returns the file.
    fn document(&self, package: &str) -> Result<PathBuf> {
        let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("rustdoc");
        run(Command::new("cargo")
            .args(["rustdoc", "--quiet", "--locked", "--lib", "--all-features", "-p", package])
            .args(["--", "-Z", "unstable-options", "--output-format", "json"])
            .env("RUSTDOC", wrapper)
            .current_dir(&self.root))?;
        Ok(self.target.join("doc").join(format!("{}.json", package.replace('-', "_"))))
    }
}

/// The present version of Rust without its patch level, as in `1.95`.
fn rust_version() -> Result<String> {
    let text = run(Command::new("rustc").arg("--version"))?;
    let version = text.split_whitespace().nth(1).unwrap_or_default();
    Ok(version.split('.').take(2).collect::<Vec<_>>().join("."))
}

/// Runs a command and returns its output.
fn run(command: &mut Command) -> Result<String> {
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
