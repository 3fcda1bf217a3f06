//! Letting only so many through at once.

use std::sync::{Condvar, Mutex, PoisonError};

/// A door for as many at a time as a store serves well.
pub(crate) struct Gate {
    free: Mutex<usize>,
    someone_left: Condvar,
}

/// Gives its place back when it is dropped.
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    pub fn new(places: usize) -> Self {
        Self { free: Mutex::new(places.max(1)), someone_left: Condvar::new() }
    }

    /// Waits for a place.
    pub fn enter(&self) -> Inside<'_> {
        // Behind the lock is a number: whoever panicked has left it whole.
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.someone_left.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Inside(self)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.someone_left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_are_inside_than_there_are_places() {
        let (gate, inside, most) = (Gate::new(3), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _inside = gate.enter();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)), "{most:?}");
        assert_eq!(*gate.free.lock().unwrap(), 3);
    }
}
