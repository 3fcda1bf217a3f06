use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/levee.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".levee.wire.v1.LogChunk.bytes")
        // It carries a key: Debug is written by hand, with nothing in it.
        .skip_debug(["CreateVaultRequest", "JoinRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
