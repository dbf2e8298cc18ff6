//! `raw SCENARIO COUNT SIZE URL QUEUE`: the limit, which is what a client without a client would take.

use amqp_bench_harness::job::Job;
use amqp_bench_harness::raw;

fn main() -> std::io::Result<()> {
    raw::run(&Job::from_args())
}
