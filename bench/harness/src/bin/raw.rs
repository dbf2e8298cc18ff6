//! `raw SCENARIO COUNT SIZE URL QUEUE`: the raw limit, that is, the cost without any client code.

use amqp_bench_harness::job::Job;
use amqp_bench_harness::raw;

fn main() -> std::io::Result<()> {
    raw::run(&Job::from_args())
}
