//! How long a command takes: `cargo bench --features tokio --bench wall_clock`, with `smol` for that
//! executor as well. The rates against other crates are those of `benches/peers`.
//!
//! By criterion rather than divan, which has less to compile but had no release for a year: criterion
//! has maintainers again, fits a slope through runs of growing size, so that what a run costs once
//! does not count, and says what has changed since the last time.

#[path = "../loads/mod.rs"]
mod loads;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::executor::block_on;
use loads::steps::{self, STEPS};
use loads::whole::{self, LOADS};
use shardpool::executors::{Executor, Threads, Tokio};
use std::time::{Duration, Instant};

/// One iteration is one command.
fn each_step(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let pool = loads::start(Tokio::new(runtime.handle().clone()));
    runtime.block_on(loads::warm(&pool));
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Elements(1));
    for (name, step) in STEPS {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|commands| {
                let mut time = Duration::ZERO;
                steps::run(&runtime, &pool, step, commands as usize, |work| {
                    let start = Instant::now();
                    work();
                    time += start.elapsed();
                });
                time
            });
        });
    }
    group.finish();
    runtime.block_on(pool.drain()).expect("an end");
}

fn whole_commands(criterion: &mut Criterion) {
    // Two threads: the figures are to be comparable between machines of different size.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    on(criterion, "tokio", Tokio::new(runtime.handle().clone()));
    #[cfg(feature = "smol")]
    {
        let executor = std::sync::Arc::new(smol::Executor::new());
        for _ in 0..2 {
            let executor = std::sync::Arc::clone(&executor);
            std::thread::spawn(move || {
                smol::block_on(executor.run(std::future::pending::<()>()));
            });
        }
        on(criterion, "smol", shardpool::executors::Smol::new(executor).with_threads(2));
    }
    on(criterion, "threads", Threads::new());
}

fn on(criterion: &mut Criterion, name: &str, executor: impl Executor + Clone) {
    let pool = loads::start(executor.clone());
    block_on(loads::warm(&pool));
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    for (name, load) in LOADS {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|commands| {
                let start = Instant::now();
                block_on(whole::run(&executor, &pool, load, commands as usize));
                start.elapsed()
            });
        });
    }
    group.finish();
    block_on(pool.drain()).expect("an end");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = each_step, whole_commands
}
criterion_main!(benches);
