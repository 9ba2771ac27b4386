//! Peak memory of a piece of work.

use burn::tensor::Device;
use peak_alloc::PeakAlloc;

/// Counts what the program allocates on the host, which is where the CPU backends keep tensors.
#[global_allocator]
static HOST: PeakAlloc = PeakAlloc;

/// The bytes that `work` needed at its peak above what was in use before it.
///
/// On a device with memory of its own that is the growth of its pools; `None` where a device does
/// not report them.
pub fn peak_extra_bytes<E>(
    device: &Device,
    on_host: bool,
    work: impl FnOnce() -> Result<(), E>,
) -> Result<Option<u64>, E> {
    if on_host {
        HOST.reset_peak_usage();
        let before = HOST.current_usage();
        work()?;
        return Ok(Some(HOST.peak_usage().saturating_sub(before) as u64));
    }
    device.memory_cleanup();
    let before = device.memory_pool_usage();
    work()?;
    let after = device.memory_pool_usage();
    Ok(before
        .zip(after)
        .map(|(before, after)| after.bytes_reserved.saturating_sub(before.bytes_in_use)))
}
