//! A short simulation, as part of the ordinary tests. `cargo run --profile simulation -p amqp-simulation -- --seeds 1000000` is a
//! long one.

use amqp_simulation::{
    Exploration, Patterns, Script, explore, run, run_patterns, shrink, shrink_exploration,
    shrink_patterns,
};

#[test]
fn invariants_hold() {
    let mut confirmed = 0;
    for seed in 0..150 {
        let report = run(&Script::new(seed)).unwrap_or_else(|failure| {
            panic!("seed {seed}: {failure}\nagain: cargo run --profile simulation -p amqp-simulation -- --seed {seed}")
        });
        confirmed += report.totals.confirmed;
    }
    assert!(confirmed > 0, "something was published");
}

#[test]
fn invariants_hold_under_random_use_of_the_api() {
    let mut refused = 0;
    for seed in 0..100 {
        let explored = explore(&Exploration::new(seed)).unwrap_or_else(|failure| {
            panic!(
                "seed {seed}: {failure}\nagain: cargo run --profile simulation -p amqp-simulation -- --explorations --seed {seed}"
            )
        });
        refused += explored.counts.refused;
    }
    assert!(refused > 0, "not everything went well");
}

#[test]
fn invariants_hold_with_patterns() {
    let (mut parked, mut replies) = (0, 0);
    for seed in 0..30 {
        let report = run_patterns(&Patterns::new(seed)).unwrap_or_else(|failure| {
            panic!(
                "seed {seed}: {failure}\nagain: cargo run --profile simulation -p amqp-simulation -- --patterns --seed {seed}"
            )
        });
        parked += report.counts.parked;
        replies += report.counts.replies;
    }
    assert!(parked > 0 && replies > 0, "{parked} messages are parked, {replies} calls succeed");
}

#[test]
fn a_seed_always_leads_to_the_same_run() {
    for seed in 0..10 {
        let script = Patterns::new(seed);
        assert_eq!(run_patterns(&script), run_patterns(&script), "seed {seed}");
    }
    for seed in 0..20 {
        let script = Script::new(seed);
        assert_eq!(run(&script), run(&script), "seed {seed}");
        let script = Exploration::new(seed);
        assert_eq!(explore(&script), explore(&script), "seed {seed}");
    }
}

#[test]
fn invariants_hold_over_tls() {
    let mut confirmed = 0;
    for seed in 0..60 {
        let explored = explore(&Exploration::new(seed).over_tls()).unwrap_or_else(|failure| {
            panic!(
                "seed {seed}: {failure}\nagain: cargo run --profile simulation -p amqp-simulation -- --explorations --tls --seed {seed}"
            )
        });
        confirmed += explored.counts.confirmed;
    }
    assert!(confirmed > 0, "something was published");
}

/// Keys differ from run to run, and lead to the same steps.
#[test]
fn over_tls_a_seed_always_leads_to_the_same_run() {
    for seed in 0..20 {
        let script = Script::new(seed).over_tls();
        assert_eq!(run(&script), run(&script), "seed {seed}");
        let script = Exploration::new(seed).over_tls();
        assert_eq!(explore(&script), explore(&script), "seed {seed}");
    }
}

#[test]
fn a_script_shrinks_to_a_failing_core() {
    let script = Script::new(1);
    assert!(script.len() > 2);
    let less = shrink(&script, |script| script.len() >= 2);
    assert_eq!(less.len(), 2);
}

#[test]
fn an_exploration_shrinks_to_the_commands_that_fail() {
    let script = Exploration::new(1);
    assert!(script.len() > 3);
    let less = shrink_exploration(&script, |script| script.len() >= 3);
    assert_eq!(less.len(), 3);
}

#[test]
fn a_script_of_patterns_shrinks_to_the_parts_that_fail() {
    let script = Patterns::new(1);
    assert!(script.len() > 3);
    let less = shrink_patterns(&script, |script| script.len() >= 3);
    assert_eq!(less.len(), 3);
}
