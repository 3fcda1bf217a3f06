//! Stores that wrap another one.

/// Hands methods of `Store` on to a field, inside an `impl Store`: `forward!(store: read, list)` for those that a wrapper
/// leaves as they are. What is not named is written out beside it.
#[macro_export]
macro_rules! forward {
    ($inner:ident: $($method:ident),+) => {
        $($crate::forward!(@ $inner $method);)+
    };
    (@ $inner:ident create) => {
        fn create(&self) -> $crate::Result<()> {
            self.$inner.create()
        }
    };
    (@ $inner:ident write) => {
        fn write(&self, file_type: $crate::FileType, name: &str, content: &[u8]) -> $crate::Result<()> {
            self.$inner.write(file_type, name, content)
        }
    };
    (@ $inner:ident write_tree_pack) => {
        fn write_tree_pack(&self, name: &str, content: &[u8]) -> $crate::Result<()> {
            self.$inner.write_tree_pack(name, content)
        }
    };
    (@ $inner:ident read) => {
        fn read(&self, file_type: $crate::FileType, name: &str) -> $crate::Result<Vec<u8>> {
            self.$inner.read(file_type, name)
        }
    };
    (@ $inner:ident read_range) => {
        fn read_range(
            &self,
            file_type: $crate::FileType,
            name: &str,
            offset: u64,
            length: usize,
        ) -> $crate::Result<Vec<u8>> {
            self.$inner.read_range(file_type, name, offset, length)
        }
    };
    (@ $inner:ident size_bytes) => {
        fn size_bytes(&self, file_type: $crate::FileType, name: &str) -> $crate::Result<u64> {
            self.$inner.size_bytes(file_type, name)
        }
    };
    (@ $inner:ident list) => {
        fn list(&self, file_type: $crate::FileType) -> $crate::Result<Vec<$crate::Entry>> {
            self.$inner.list(file_type)
        }
    };
    (@ $inner:ident remove) => {
        fn remove(&self, file_type: $crate::FileType, name: &str) -> $crate::Result<()> {
            self.$inner.remove(file_type, name)
        }
    };
    (@ $inner:ident location) => {
        fn location(&self) -> String {
            self.$inner.location()
        }
    };
}
