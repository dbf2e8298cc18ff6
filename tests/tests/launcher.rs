//! The launcher, with real nodes.

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use amqp_client_blocking::{Message, QueueOptions, QueueType, Wait as _, connect};
use amqp_testkit::{RabbitMq, wait_until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const LIMIT: Duration = Duration::from_secs(60);

/// A paused node must be silent for this long.
const SILENCE: Duration = Duration::from_millis(300);

/// Says the protocol header on a new connection.
fn say_header(addr: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    Ok(stream)
}

fn first_byte(mut stream: TcpStream) -> u8 {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    byte[0]
}

fn assert_refused(addr: SocketAddr) {
    assert_eq!(say_header(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// Returns whether a process runs. One that has ended and that nobody has reaped yet doesn't; but its first
/// thread can end before the others, which still hold its sockets.
fn alive(pid: u32) -> bool {
    let raw = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().count();
    test_kill_process(raw).is_ok() && !(ended && threads <= 1)
}

#[test]
fn a_node_is_killed_restarted_paused_stopped_and_removed() {
    let node = RabbitMq::start().unwrap();
    let (addr, data) = (node.addr(), node.data_dir());
    assert_eq!(node.amqp_uri(), format!("amqp://guest:guest@{addr}/%2f"));
    assert_eq!(first_byte(say_header(addr).unwrap()), 1);
    node.ctl(&["add_vhost", "kept"]).unwrap();
    let first = node.pid().unwrap();
    assert!(alive(first));

    node.kill().unwrap();
    assert_refused(addr);
    wait_until(LIMIT, "the process to end", || !alive(first));
    assert_eq!(node.pid(), None);
    assert_eq!(node.pause().unwrap_err().kind(), ErrorKind::NotConnected);

    node.restart().unwrap();
    assert_eq!(node.addr(), addr);
    let second = node.pid().unwrap();
    assert_ne!(first, second);
    assert!(node.ctl(&["list_vhosts"]).unwrap().lines().any(|line| line == "kept"));

    node.pause().unwrap();
    let mut waiting = say_header(addr).unwrap();
    waiting.set_read_timeout(Some(SILENCE)).unwrap();
    assert_eq!(waiting.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    node.resume().unwrap();
    waiting.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(first_byte(waiting), 1);

    node.stop().unwrap();
    assert_refused(addr);
    wait_until(LIMIT, "the process to end", || !alive(second));
    assert!(node.ctl(&["status"]).is_err());
    assert!(data.join("data").exists());

    node.restart().unwrap();
    let third = node.pid().unwrap();
    drop(node);
    assert_refused(addr);
    wait_until(LIMIT, "the process to end", || !alive(third));
    assert!(!data.parent().unwrap().exists());
}

#[test]
fn a_quorum_queue_survives_a_kill_right_behind_its_declaration() {
    let node = RabbitMq::start().unwrap();
    let begin = || {
        let connection = connect(&node.amqp_uri()).unwrap();
        let channel = connection.open_channel().wait().unwrap();
        (connection, channel)
    };
    let (_connection, channel) = begin();
    let options = QueueOptions::new().queue_type(QueueType::Quorum);
    let queue = channel.queue_declare("kept", options).wait().unwrap();
    queue.publish_confirmed(&Message::new("kept")).wait().unwrap();
    node.flush().unwrap();
    node.kill().unwrap();
    node.restart().unwrap();

    let (_connection, channel) = begin();
    let queue = channel.queue("kept").unwrap();
    wait_until(LIMIT, "the message to be there", || {
        queue.get().wait().is_ok_and(|got| got.is_some_and(|got| got.delivery.body() == b"kept"))
    });
}

#[test]
fn plugins_and_settings_reach_the_node() {
    let builder = RabbitMq::builder().plugin("rabbitmq_management").config_line("heartbeat = 7");
    let node = builder.start().unwrap();
    let setting = node.ctl(&["eval", "application:get_env(rabbit, heartbeat)."]).unwrap();
    assert_eq!(setting.trim(), "{ok,7}");

    let uri = node.management_uri().unwrap();
    let addr = uri.strip_prefix("http://guest:guest@").unwrap();
    let mut http = TcpStream::connect(addr).unwrap();
    http.set_read_timeout(Some(LIMIT)).unwrap();
    // The credentials are "guest:guest" in Base64.
    let head = "Host: localhost\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nConnection: close";
    write!(http, "GET /api/overview HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains(&node.node_name()), "{answer}");
}

#[test]
fn nodes_form_a_cluster() {
    let first = RabbitMq::start().unwrap();
    let second = RabbitMq::builder().join(&first).start().unwrap();
    let home = first.data_dir().parent().unwrap().to_owned();
    assert_eq!(second.data_dir().parent().unwrap(), home);
    for node in [&first, &second] {
        let status = node.ctl(&["cluster_status", "--formatter", "json"]).unwrap();
        let running = status.split_once("\"running_nodes\"").map(|(_, running)| running);
        let running = running.and_then(|running| running.split(']').next()).unwrap_or_default();
        assert!(running.contains(&first.node_name()), "{running}");
        assert!(running.contains(&second.node_name()), "{running}");
        assert_eq!(first_byte(say_header(node.addr()).unwrap()), 1);
    }
    // The port mapper and the folder belong to both.
    drop(first);
    assert!(second.ctl(&["list_vhosts"]).unwrap().contains('/'));
    drop(second);
    assert!(!home.exists());
}

#[test]
fn a_failed_start_names_the_reason() {
    let builder = RabbitMq::builder().config_line("no_such_setting = 1");
    let error = builder.start().unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    let error = RabbitMq::builder().deadline(Duration::from_millis(1)).start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

/// The program `with-rabbitmq`, with a folder of its own for temporary files.
struct Run {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    folder: PathBuf,
}

impl Run {
    /// Starts it with a shell script as the command. The script's input ends with this value.
    fn start(name: &str, script: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_with-rabbitmq"))
            .args(["sh", "-c", script])
            .env_remove("AMQP_URL")
            .env("TMPDIR", &folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, folder }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The processes of the node and of its port mapper.
    fn node_and_epmd(&self) -> [u32; 2] {
        let home = only_entry(&self.folder);
        let mut entries = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().path());
        let node = entries.find(|path| path.is_dir()).unwrap();
        [node.join("pid"), home.join("epmd.group")]
            .map(|file| fs::read_to_string(file).unwrap().trim().parse().unwrap())
    }

    fn assert_nothing_left(&self, processes: [u32; 2]) {
        for pid in processes {
            wait_until(LIMIT, "the node's processes to end", || !alive(pid));
        }
        wait_until(LIMIT, "the node's files to be removed", || {
            fs::read_dir(&self.folder).unwrap().next().is_none()
        });
    }
}

fn only_entry(folder: &Path) -> PathBuf {
    let mut entries = fs::read_dir(folder).unwrap();
    let entry = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none());
    entry
}

fn addr_of(uri: &str) -> SocketAddr {
    let rest = uri.strip_prefix("amqp://guest:guest@").unwrap();
    rest.strip_suffix("/%2f").unwrap().parse().unwrap()
}

#[test]
fn a_killed_parent_leaves_nothing_behind() {
    let mut run = Run::start("killed-parent", "echo $AMQP_URL; exec cat");
    let addr = addr_of(&run.line());
    assert_eq!(first_byte(say_header(addr).unwrap()), 1);
    let processes = run.node_and_epmd();
    assert!(processes.into_iter().all(alive));
    run.signal(Signal::KILL);
    run.child.wait().unwrap();
    run.assert_nothing_left(processes);
    assert_refused(addr);
}

#[test]
fn a_signal_reaches_the_command_and_its_exit_code_is_returned() {
    let script = "trap 'echo got it; exit 7' TERM; echo $AMQP_URL; while read -r line; do :; done";
    let mut run = Run::start("signalled", script);
    let addr = addr_of(&run.line());
    let processes = run.node_and_epmd();
    run.signal(Signal::TERM);
    assert_eq!(run.line(), "got it");
    assert_eq!(run.child.wait().unwrap().code(), Some(7));
    run.assert_nothing_left(processes);
    assert_refused(addr);
}

#[test]
fn a_signal_during_the_start_ends_it() {
    let run = Run::start("early", "echo never");
    wait_until(LIMIT, "the node to start", || {
        let home = fs::read_dir(&run.folder).unwrap().next();
        let mut files =
            home.into_iter().flat_map(|home| fs::read_dir(home.unwrap().path()).unwrap());
        files.any(|file| file.unwrap().file_name().to_string_lossy().starts_with("testkit-"))
    });
    run.signal(Signal::INT);
    let Run { mut child, mut output, folder } = run;
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut printed = String::new();
    output.read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "");
    wait_until(LIMIT, "the node's files to be removed", || {
        fs::read_dir(&folder).unwrap().next().is_none()
    });
}

#[test]
fn with_a_url_the_command_is_just_run() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/with-rabbitmq");
    for program in [env!("CARGO_BIN_EXE_with-rabbitmq"), script] {
        let run = |args: &[&str]| {
            let url = ("AMQP_URL", "amqp://elsewhere");
            Command::new(program).args(args).env(url.0, url.1).output().unwrap()
        };
        let output = run(&["sh", "-c", "echo $AMQP_URL; exit 3"]);
        assert_eq!(output.stdout, b"amqp://elsewhere\n");
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(run(&["/no/such/command"]).status.code(), Some(127));
        assert_eq!(run(&[]).status.code(), Some(2));
    }
}

#[test]
fn the_script_names_what_is_missing() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/with-rabbitmq");
    let mut command = Command::new("/bin/bash");
    let output = command.args([script, "true"]).env_remove("AMQP_URL").env("PATH", "/nowhere");
    let output = output.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cargo is not in PATH"));
}
