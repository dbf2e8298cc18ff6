//! The adapters re-export the same items of amqp-client-core, so that a program can move from one to another.

fn listed(source: &str) -> Vec<&str> {
    let (_, list) = source.split_once("pub use amqp_client_core::{").expect("there is a list");
    let (list, _) = list.split_once("};").expect("it ends");
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
}

#[test]
fn adapters_export_the_same_items() {
    let tokio = listed(include_str!("../../amqp-client-tokio/src/lib.rs"));
    assert!(tokio.len() > 50, "{tokio:?}");
    assert_eq!(tokio, listed(include_str!("../../amqp-client-smol/src/lib.rs")));
    assert_eq!(tokio, listed(include_str!("../../amqp-client-blocking/src/lib.rs")));
}
