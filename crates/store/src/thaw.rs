//! Files in archive classes: cheap to keep, and read only after the service was asked to bring them back.

/// How far a file is from being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temperature {
    /// It can be read now.
    Readable,
    /// The service was asked, and is bringing it back.
    Thawing,
    /// Nobody has asked for it.
    Frozen,
}

/// How soon a file is wanted, which is what it costs. How long each takes is the service's affair: for S3's
/// `GLACIER` minutes, hours and half a day. Azure has no `Bulk`, and takes it for `Standard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThawSpeed {
    Expedited,
    #[default]
    Standard,
    Bulk,
}

/// How to bring files back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThawRequest {
    /// How long they stay readable, at S3. At Azure a file leaves the archive for good.
    pub days: u16,
    pub speed: ThawSpeed,
}
