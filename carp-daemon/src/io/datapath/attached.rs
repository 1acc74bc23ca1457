//! carpd's programs on an interface as the kernel lists them, wherever they are pinned.

use aya::programs::tc::SchedClassifier;
use aya::programs::{TcAttachType, loaded_programs};

use crate::io::netlink::Link;

/// The prefix of the names of carpd's programs.
const NAME: &str = "carpd_";

/// Returns the names of carpd's programs on an interface. Programs that the kernel does not list are left out: before 6.6
/// it has no tcx, and listing takes CAP_BPF or CAP_NET_ADMIN.
#[must_use]
pub fn programs(link: &Link) -> Vec<String> {
    let ours = |name: Option<&str>| {
        name.filter(|name| name.starts_with(NAME))
            .map(str::to_owned)
    };
    let mut names = Vec::new();
    if link.xdp_program != 0 {
        let holder = loaded_programs()
            .filter_map(Result::ok)
            .find(|program| program.id() == link.xdp_program);
        names.extend(holder.and_then(|program| ours(program.name_as_str())));
    }
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        let listed = SchedClassifier::query_tcx(&link.name, direction);
        let programs = listed.map_or_else(|_| Vec::new(), |(_, programs)| programs);
        names.extend(
            programs
                .iter()
                .filter_map(|program| ours(program.name_as_str())),
        );
    }
    names
}
