//! Finding RabbitMQ's programs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Names the folder of `rabbitmq-server` and `rabbitmqctl`, before every other place.
const OVERRIDE: &str = "RABBITMQ_SERVER_BIN_DIR";

/// The folders of the plain scripts in packages. The wrappers in PATH come last: those of Debian insist on the user `rabbitmq`.
const FOLDERS: [&str; 4] = [
    "/usr/lib/rabbitmq/bin",
    "/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
];

/// RabbitMQ's own packages have a folder per version in here.
const VERSIONS: &str = "/usr/lib/rabbitmq/lib";

/// The folder of `epmd` in Erlang, if PATH does not have it.
const ERLANG: [&str; 3] =
    ["/usr/lib/erlang/bin", "/usr/local/lib/erlang/bin", "/opt/homebrew/opt/erlang/lib/erlang/bin"];

/// The programs a node needs.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    pub(super) server: PathBuf,
    pub(super) ctl: PathBuf,
    pub(super) epmd: PathBuf,
}

impl Tools {
    /// Finds the tools. The error says what to install.
    pub(super) fn find() -> Result<Self, String> {
        Self::find_in(&server_folders(), &epmd_folders())
    }

    fn find_in(servers: &[PathBuf], epmds: &[PathBuf]) -> Result<Self, String> {
        let missing = |what: &str| {
            format!(
                "{what} not found: install RabbitMQ (Debian: `apt-get install rabbitmq-server`, or \
                 run `tests/with-rabbitmq true` as root), or name its folder in {OVERRIDE}"
            )
        };
        let folder = servers
            .iter()
            .find(|folder| has(folder, "rabbitmq-server") && has(folder, "rabbitmqctl"))
            .ok_or_else(|| missing("rabbitmq-server"))?;
        let epmd = epmds
            .iter()
            .find(|folder| has(folder, "epmd"))
            .ok_or_else(|| missing("Erlang's epmd"))?;
        Ok(Self {
            server: folder.join("rabbitmq-server"),
            ctl: folder.join("rabbitmqctl"),
            epmd: epmd.join("epmd"),
        })
    }
}

fn has(folder: &Path, program: &str) -> bool {
    folder.join(program).is_file()
}

fn server_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os(OVERRIDE).map(PathBuf::from).into_iter().collect();
    folders.extend(FOLDERS.map(PathBuf::from));
    folders.extend(version_folders(Path::new(VERSIONS)));
    folders.extend(path_folders());
    folders
}

fn version_folders(versions: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(versions).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path().join("sbin")).collect();
    folders.sort();
    folders
}

fn epmd_folders() -> Vec<PathBuf> {
    let mut folders = path_folders();
    folders.extend(ERLANG.map(PathBuf::from));
    folders
}

fn path_folders() -> Vec<PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of empty programs, gone when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn with(programs: &[&str]) -> Self {
            let path = env::temp_dir().join(format!("testkit-tools-{:x}", crate::net::random()));
            fs::create_dir(&path).unwrap();
            for program in programs {
                fs::write(path.join(program), "").unwrap();
            }
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn the_first_complete_folder_is_taken() {
        let half = Folder::with(&["rabbitmq-server"]);
        let whole = Folder::with(&["rabbitmq-server", "rabbitmqctl", "epmd"]);
        let later = Folder::with(&["rabbitmq-server", "rabbitmqctl"]);
        let servers = [half.0.clone(), whole.0.clone(), later.0.clone()];
        let tools = Tools::find_in(&servers, &[half.0.clone(), whole.0.clone()]).unwrap();
        assert_eq!(tools.server, whole.0.join("rabbitmq-server"));
        assert_eq!(tools.ctl, whole.0.join("rabbitmqctl"));
        assert_eq!(tools.epmd, whole.0.join("epmd"));
    }

    #[test]
    fn a_missing_tool_is_named_with_instructions() {
        let error = Tools::find_in(&[], &[]).unwrap_err();
        assert!(error.contains("rabbitmq-server not found"), "{error}");
        assert!(error.contains(OVERRIDE), "{error}");
        let server = Folder::with(&["rabbitmq-server", "rabbitmqctl"]);
        let error = Tools::find_in(std::slice::from_ref(&server.0), &[]).unwrap_err();
        assert!(error.contains("epmd not found"), "{error}");
    }

    #[test]
    fn versioned_packages_are_found() {
        let root = Folder::with(&[]);
        fs::create_dir(root.0.join("rabbitmq_server-4.0.5")).unwrap();
        let expected = root.0.join("rabbitmq_server-4.0.5").join("sbin");
        assert_eq!(version_folders(&root.0), [expected]);
        assert!(version_folders(Path::new("/nowhere")).is_empty());
    }
}
