//! Doing the same to many things on a few threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads compute: all cores, within reason.
pub(crate) fn compute_threads() -> usize {
    const THREADS_MAX: usize = 16;
    std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, THREADS_MAX))
}

/// Applies a function to each item on up to `threads` threads and gives the results in the items' order.
pub(crate) fn parallel_map<T: Sync, R: Send>(threads: usize, items: &[T], apply: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.iter().map(apply).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut results = Vec::new();
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(position) else { return results };
            results.push((position, apply(item)));
        }
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    results.sort_unstable_by_key(|(position, _)| *position);
    results.into_iter().map(|(_, result)| result).collect()
}
