//! The maps of the loaded object, each of which one part of the datapath takes.

use aya::Ebpf;
use aya::maps::MapError;

use super::error::{KernelError, map_error};

/// Takes a map out of the object.
///
/// # Errors
/// Returns an error if the object has no such map, or has it no more.
pub fn take<M: TryFrom<aya::maps::Map, Error = MapError>>(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<M, KernelError> {
    let map = object.take_map(name).ok_or(KernelError::Missing(name))?;
    M::try_from(map).map_err(map_error("open", name))
}
