//! The errors of the compiler for common mistakes.
//!
//! Each file of `tests/mistakes` is a program that must not compile. Its lines `//~ text` are texts that the errors must contain.
//!
//! No crate fits: trybuild and `ui_test` need a newer compiler than this workspace, and trybuild compares whole outputs, which are
//! different for each version of the compiler.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

use serde_json::Value;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[test]
fn the_compiler_explains_mistakes() -> Outcome {
    let libraries = libraries()?;
    let mut failures = String::new();
    for program in programs()? {
        let expected = expected(&fs::read_to_string(&program)?);
        assert!(!expected.is_empty(), "{}: no line begins with //~", program.display());
        let errors = errors(&program, &libraries)?;
        let missing: Vec<_> = expected.iter().filter(|text| !errors.contains(&**text)).collect();
        if !missing.is_empty() {
            let program = program.display();
            failures += &format!("\n{program}: no error contains {missing:#?}:\n{errors}");
        }
    }
    assert!(failures.is_empty(), "{failures}");
    Ok(())
}

/// A text that no program expects could disappear, or never have been shown.
#[test]
fn each_text_for_the_compiler_has_a_mistake() -> Outcome {
    let programs = programs()?;
    let programs: Result<Vec<_>, _> = programs.iter().map(fs::read_to_string).collect();
    let expected: Vec<String> = programs?.iter().flat_map(|program| expected(program)).collect();
    let mut count = 0;
    for library in ["amqp-client-patterns", "amqp-client-core", "amqp-proto"] {
        for file in files(&workspace().join(library).join("src"))? {
            for text in texts(&fs::read_to_string(&file)?) {
                let shown = expected.iter().any(|expected| is_instance(expected, &text));
                assert!(shown, "{}: no mistake shows the text: {text}", file.display());
                count += 1;
            }
        }
    }
    assert!(count > 10, "{count} texts");
    Ok(())
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a workspace")
}

/// Returns the files below a folder.
fn files(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(self::files(&path)?),
            false => files.push(path),
        }
    }
    Ok(files)
}

fn programs() -> Outcome<Vec<PathBuf>> {
    let mut programs = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes"))?;
    programs.sort();
    Ok(programs)
}

/// Returns the texts that the errors of a program must contain.
fn expected(program: &str) -> Vec<String> {
    program.lines().filter_map(|line| line.strip_prefix("//~ ")).map(str::to_owned).collect()
}

/// Returns the texts of all `#[diagnostic::on_unimplemented(..)]` in a file.
fn texts(source: &str) -> Vec<String> {
    let attributes = source.split("#[diagnostic::on_unimplemented(").skip(1);
    let mut texts = Vec::new();
    for attribute in attributes.filter_map(|rest| rest.split(")]").next()) {
        for text in attribute.split('"').skip(1).step_by(2) {
            // A text may continue in the next line.
            let lines = text.split("\\\n").map(str::trim_start);
            texts.push(lines.collect());
        }
    }
    texts
}

/// Returns whether `expected` is `text` with values for its placeholders, such as `{Self}`.
fn is_instance(expected: &str, text: &str) -> bool {
    let mut rest = expected;
    text.split(['{', '}']).step_by(2).all(|piece| {
        let found = rest.split_once(piece);
        rest = found.map_or("", |(_, after)| after);
        found.is_some()
    })
}

/// Compiles the libraries, in a target folder of their own, so that the lock of the outer build does not matter. Returns the
/// arguments with which the compiler finds them.
fn libraries() -> Outcome<Vec<OsString>> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("diagnostics");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["check", "--locked", "--offline", "--message-format=json", "--features=json"])
        .args(["-p=amqp-client-patterns", "-p=amqp-client-core"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(workspace())
        // The programs are compiled without them.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    let Output { status, stdout, stderr } = cargo.output()?;
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let mut arguments = Vec::new();
    for artifact in messages(&stdout).filter(|message| message["reason"] == "compiler-artifact") {
        let name = artifact["target"]["name"].as_str().unwrap_or_default();
        let file = artifact["filenames"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|file| file.as_str().filter(|file| file.ends_with(".rmeta")));
        let Some(file) = file.map(Path::new) else { continue };
        if arguments.is_empty() {
            let mut folder = OsString::from("dependency=");
            folder.push(file.parent().ok_or("the file is in no folder")?);
            arguments.extend(["-L".into(), folder]);
        }
        if name.starts_with("amqp_client_") {
            arguments.extend(["--extern".into(), format!("{name}={}", file.display()).into()]);
        }
    }
    Ok(arguments)
}

/// Returns all errors of a program, as the compiler prints them.
fn errors(program: &Path, libraries: &[OsString]) -> Outcome<String> {
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--error-format=json"])
        // Long types are written to files there.
        .args(["--out-dir", env!("CARGO_TARGET_TMPDIR")])
        .args(libraries)
        .arg(program);
    let Output { status, stderr, .. } = rustc.output()?;
    assert!(!status.success(), "{} compiles", program.display());
    Ok(messages(&stderr)
        .filter(|message| message["level"] == "error")
        .filter_map(|message| message["rendered"].as_str().map(str::to_owned))
        .collect())
}

/// Parses the lines that are JSON.
fn messages(output: &[u8]) -> impl Iterator<Item = Value> {
    output.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}
