//! Doing the same to many things on a few threads.

use std::cmp::Ordering as Order;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads compute: all cores, within reason.
pub(crate) fn compute_threads() -> usize {
    const THREADS_MAX: usize = 16;
    std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, THREADS_MAX))
}

/// Applies a function to each item on up to `threads` threads and gives the results in the items' order.
pub(crate) fn parallel_map<T: Sync, R: Send>(threads: usize, items: &[T], apply: impl Fn(&T) -> R + Sync) -> Vec<R> {
    parallel_map_with(threads, items, || (), |(), item| apply(item))
}

/// The same with something that each thread makes once and uses for all its items, such as buffers.
pub(crate) fn parallel_map_with<S, T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    begin: impl Fn() -> S + Sync,
    apply: impl Fn(&mut S, &T) -> R + Sync,
) -> Vec<R> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        let mut state = begin();
        return items.iter().map(|item| apply(&mut state, item)).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut state, mut results) = (begin(), Vec::new());
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(position) else { return results };
            results.push((position, apply(&mut state, item)));
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

/// Changes each item, on all cores.
pub(crate) fn parallel_each_mut<T: Send>(items: &mut [T], change: impl Fn(&mut T) + Sync) {
    let part = items.len().div_ceil(compute_threads()).max(1);
    std::thread::scope(|scope| {
        for items in items.chunks_mut(part) {
            scope.spawn(|| items.iter_mut().for_each(&change));
        }
    });
}

/// Below this a second thread costs more than it saves.
pub(crate) const SORT_ALONE_BELOW: usize = 1 << 16;

/// Sorts in place, with no further memory, on all cores.
pub(crate) fn parallel_sort<T: Send>(items: &mut [T], compare: &(impl Fn(&T, &T) -> Order + Sync)) {
    sort_on(compute_threads(), items, compare);
}

fn sort_on<T: Send>(threads: usize, items: &mut [T], compare: &(impl Fn(&T, &T) -> Order + Sync)) {
    if threads <= 1 || items.len() < SORT_ALONE_BELOW {
        return items.sort_unstable_by(compare);
    }
    let middle = items.len() / 2;
    items.select_nth_unstable_by(middle, compare);
    let (low, high) = items.split_at_mut(middle);
    std::thread::scope(|scope| {
        scope.spawn(|| sort_on(threads / 2, low, compare));
        sort_on(threads - threads / 2, high, compare);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sorted_in_parts_is_sorted_as_a_whole() {
        let mut numbers: Vec<u32> =
            (0..300_000_u32).map(|number| number.wrapping_mul(2_654_435_761) % 100_000).collect();
        let mut expected = numbers.clone();
        expected.sort_unstable();
        parallel_sort(&mut numbers, &u32::cmp);
        assert!(numbers == expected);
    }
}
