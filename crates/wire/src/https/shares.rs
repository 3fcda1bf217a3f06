//! What each peer may have under way at once, and all of them together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound in units of the caller's: bytes, or requests. Whoever has used up their own waits for themselves, and keeps
/// nobody else.
pub(super) struct Shares {
    all: Arc<Semaphore>,
    of_each: u32,
    /// Those who have something under way, or wait for it.
    peers: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// Given back when it is dropped.
pub(super) struct Share {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Shares {
    pub(super) fn new(all: u32, of_each: u32) -> Self {
        Self { all: Arc::new(Semaphore::new(all as usize)), of_each, peers: Mutex::default() }
    }

    /// Waits for a share of this size, or of all that one may have. `None` never comes: nobody closes the semaphores.
    pub(super) async fn take(&self, peer: &str, amount: u32) -> Option<Share> {
        let amount = amount.min(self.of_each);
        // One's own first: what waits here must not stand in the others' queue.
        let own = self.of(peer).acquire_many_owned(amount).await.ok()?;
        let all = self.all.clone().acquire_many_owned(amount).await.ok()?;
        Some(Share { _own: own, _all: all })
    }

    fn of(&self, peer: &str) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = peers.get(peer).and_then(Weak::upgrade) {
            return own;
        }
        peers.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(self.of_each as usize));
        peers.insert(peer.into(), Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn take(shares: &Shares, peer: &str, amount: u32) -> Option<Share> {
        timeout(Duration::from_millis(50), shares.take(peer, amount)).await.ok().flatten()
    }

    #[tokio::test]
    async fn who_has_used_up_their_own_keeps_nobody_else() {
        let shares = Shares::new(10, 4);
        let first = take(&shares, "a", 3).await;
        assert!(first.is_some() && take(&shares, "a", 2).await.is_none());
        // More than one may have is all of it.
        let others = (take(&shares, "b", 100).await, take(&shares, "c", 3).await);
        assert!(others.0.is_some() && others.1.is_some() && take(&shares, "d", 1).await.is_none());
        drop(first);
        assert!(take(&shares, "a", 3).await.is_some());
        drop(others);
        assert!(take(&shares, "d", 4).await.is_some());
        assert_eq!(shares.peers.lock().unwrap().len(), 1, "peers that have gone are remembered");
    }
}
