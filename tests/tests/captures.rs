//! Wireshark reads the captures of taps: tshark finds no malformed frame, and the same frames as the lines beside the capture.
//!
//! Without tshark, nothing is compared: `tests/captures` installs it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use amqp_client_core::proto::method::Method;
use amqp_client_core::tap::{Lines, Pcap};
use amqp_client_core::{
    ConfirmError, ConsumeOptions, FieldTable, Message, MessageProperties, PublisherOptions,
    QueueOptions, SendError, Target,
};
use amqp_client_tokio::connect_target;
use amqp_test_broker::Broker;
use amqp_testkit::Proxy;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Number of frames of each method, and of the other kinds of frames.
type Counts = BTreeMap<String, u64>;

fn tshark(capture: &Path, arguments: &[&str]) -> Result<Option<String>> {
    let output = Command::new("tshark").arg("-r").arg(capture).args(arguments).output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("tshark: {errors}").into());
    }
    Ok(Some(String::from_utf8(output.stdout)?))
}

/// Returns the frames that tshark finds in a capture, or `None` if it is not installed.
fn frames(capture: &Path) -> Result<Option<Counts>> {
    let fields = ["-Y", "amqp", "-T", "fields"];
    let columns = ["amqp.type", "amqp.method.class", "amqp.method.method"];
    let columns = columns.iter().flat_map(|column| ["-e", column]);
    let arguments: Vec<_> = fields.into_iter().chain(columns).collect();
    let Some(output) = tshark(capture, &arguments)? else { return Ok(None) };
    let mut counts = Counts::new();
    for line in output.lines() {
        let columns: Vec<Vec<&str>> = line
            .split('\t')
            .map(|column| column.split(',').filter(|value| !value.is_empty()).collect())
            .collect();
        let [types, classes, methods] = &columns[..] else { continue };
        let mut names = classes.iter().zip(methods).map(|(class, method)| {
            let id = (class.parse().ok(), method.parse().ok());
            let facts = Method::ALL.iter().find(|facts| (Some(facts.id.0), Some(facts.id.1)) == id);
            facts.map_or_else(|| format!("{id:?}"), |facts| facts.name.to_owned())
        });
        for kind in types {
            let name = match *kind {
                "1" => names.next().ok_or_else(|| format!("no method in {line}"))?,
                "2" => "header".to_owned(),
                "3" => "body".to_owned(),
                "8" => "heartbeat".to_owned(),
                other => return Err(format!("type {other}").into()),
            };
            *counts.entry(name).or_default() += 1;
        }
    }
    Ok(Some(counts))
}

/// Returns the frames that lines show.
fn lines(file: &Path) -> Result<Counts> {
    let mut counts = Counts::new();
    for line in fs::read_to_string(file)?.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let name = match words[..] {
            [_, _, "->" | "<-", "heartbeat", ..] => "heartbeat",
            // Wireshark 4.0 shows the protocol header of version 0-9-1 as "unknown version". What was cut is no frame.
            [_, _, "->" | "<-", "protocol" | "the", ..] => continue,
            // Some tests send properties that are malformed on purpose.
            [_, _, "->" | "<-", _, "malformed", name, ..] => name.trim_end_matches(':'),
            [_, _, "->" | "<-", _, name, ..] => name,
            _ => continue,
        };
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

/// Compares a capture with the lines beside it. Returns false without tshark.
fn compare(capture: &Path) -> Result<bool> {
    let Some(frames) = frames(capture)? else {
        println!("skipped: tshark is not installed; tests/captures installs it");
        return Ok(false);
    };
    assert_eq!(frames, lines(&capture.with_extension("lines"))?, "{}", capture.display());
    println!("{}: {frames:?}", capture.display());
    let wrong = "_ws.malformed || tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0";
    let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-Y", wrong];
    assert_eq!(tshark(capture, &checks)?.unwrap_or_default(), "", "{}", capture.display());
    Ok(true)
}

fn folder() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("captures");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Two connections, one of which is lost and recovers, and messages of many sizes.
#[tokio::test]
async fn wireshark_reads_what_a_tap_writes() -> Result<()> {
    let capture = folder()?.join("sessions.pcapng");
    let broker = Broker::start()?;
    let proxy = Proxy::start(broker.addr())?;
    let target = Target::new(proxy.addr().ip().to_string(), proxy.addr().port())
        .heartbeat(Duration::from_secs(1))
        .tap(Pcap::new(File::create(&capture)?))
        .tap(Lines::new(File::create(capture.with_extension("lines"))?));
    let connection = connect_target(target.clone()).await?;
    let other = connect_target(target).await?;
    for number in 0..20u8 {
        let channel = connection.open_channel().await?;
        let queue = channel.queue_declare("", QueueOptions::temporary()).await?;
        let mut consumer = queue.consume(ConsumeOptions::new()).await?;
        for size in [0, 1, 255, 65_535, 65_536, 131_064, 131_065, 1_000_000] {
            let headers = FieldTable::new().with("number", i64::from(number))?;
            let properties = MessageProperties::new().headers(headers);
            let message = Message::new(vec![number; size]).with(&properties)?;
            queue.publish_confirmed(&message).await?;
            let delivery = consumer.next().await.ok_or("it has ended")??;
            assert_eq!(delivery.body().len(), size);
            delivery.ack()?;
        }
        if number == 10 {
            proxy.cut();
        }
    }
    let unroutable = other.open_channel().await?.default_exchange();
    let publisher = unroutable.publisher(PublisherOptions::new())?;
    let returned = publisher.send("nowhere", vec![0xCE; 100]).await;
    assert!(
        matches!(returned, Err(SendError::NotConfirmed(ConfirmError::Returned(_)))),
        "{returned:?}"
    );
    let log = capture.with_extension("lines");
    let heard = || lines(&log).is_ok_and(|counts| counts.get("heartbeat").is_some_and(|n| *n > 1));
    while !heard() {
        tokio::task::yield_now().await;
    }
    connection.close().await?;
    other.close().await?;
    compare(&capture)?;
    Ok(())
}

/// The captures that other tests have made, for `tests/captures`.
#[test]
fn wireshark_reads_the_captures_of_other_tests() -> Result<()> {
    let Some(folder) = std::env::var_os("AMQP_CAPTURES") else { return Ok(()) };
    let mut compared = 0;
    for entry in fs::read_dir(&folder)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "pcapng") {
            assert!(compare(&file)?, "tshark is not installed");
            compared += 1;
        }
    }
    assert!(compared > 0, "no capture is in {}", folder.display());
    Ok(())
}
