//! A short simulation, as part of the ordinary tests. `cargo run --release -p amqp-simulation -- --seeds 1000000` is a long one.

use amqp_simulation::{Script, run, shrink};

#[test]
fn what_always_has_to_hold_holds() {
    let mut confirmed = 0;
    for seed in 0..150 {
        let report = run(&Script::new(seed)).unwrap_or_else(|failure| {
            panic!("seed {seed}: {failure}\nagain: cargo run --release -p amqp-simulation -- --seed {seed}")
        });
        confirmed += report.totals.confirmed;
    }
    assert!(confirmed > 0, "something was published");
}

#[test]
fn a_seed_always_leads_to_the_same_run() {
    for seed in 0..20 {
        let script = Script::new(seed);
        assert_eq!(run(&script), run(&script), "seed {seed}");
    }
}

#[test]
fn a_script_shrinks_to_what_still_fails() {
    let script = Script::new(1);
    assert!(script.len() > 2);
    let less = shrink(&script, |script| script.len() >= 2);
    assert_eq!(less.len(), 2);
}
