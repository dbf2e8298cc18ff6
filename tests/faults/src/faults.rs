use std::fmt;
use std::io;
use std::thread::sleep;
use std::time::Duration;

use crate::site::Site;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// All connections end, at both sides.
    Cut,
    /// All connections are reset.
    Reset,
    /// All connections end after some more bytes, usually within a frame.
    CutAmid,
    /// Bytes come in crumbs for a while, then the connections end.
    Crumbs,
    /// Nothing passes any more, for longer than silence is borne.
    Stall,
    /// An operator closes all connections.
    ForcedClose,
    /// A node has no memory left, for a while.
    Alarm,
    /// A node stops in good order, and starts again.
    Restart,
    /// A node is killed, and starts again.
    Kill,
    /// A node does nothing, for longer than silence is borne.
    Freeze,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Cut,
        Self::Reset,
        Self::CutAmid,
        Self::Crumbs,
        Self::Stall,
        Self::ForcedClose,
        Self::Alarm,
        Self::Restart,
        Self::Kill,
        Self::Freeze,
    ];

    /// Injects the fault, into that node if it concerns one, and ends it. Blocks meanwhile. In a cluster, a node that is down
    /// stays down until `others_serve` returns that the clients have found another.
    pub(crate) fn happen(
        self,
        site: &Site,
        node: usize,
        chance: &mut fastrand::Rng,
        others_serve: impl Fn(),
    ) -> io::Result<()> {
        let broker = &site.nodes[node];
        match self {
            Self::Cut => site.each_proxy(amqp_testkit::Proxy::cut),
            Self::Reset => site.each_proxy(amqp_testkit::Proxy::reset),
            Self::CutAmid => {
                let bytes = chance.u64(1..4000);
                site.each_proxy(|proxy| proxy.cut_after(bytes));
            }
            Self::Crumbs => {
                let size = chance.usize(1..50);
                site.each_proxy(|proxy| proxy.slice(size));
                // For a while: the traffic of this time passes in small pieces.
                sleep(Duration::from_millis(300));
                site.each_proxy(|proxy| {
                    proxy.cut();
                    proxy.slice(0);
                });
            }
            Self::Stall => {
                site.each_proxy(|proxy| proxy.stall(true));
                // The length of the silence is the fault.
                sleep(SILENCE);
                site.each_proxy(|proxy| proxy.stall(false));
            }
            Self::ForcedClose => {
                broker.ctl(&["close_all_connections", "maintenance"])?;
            }
            Self::Alarm => {
                broker.ctl(&["set_vm_memory_high_watermark", "0.0000001"])?;
                // An alarm lasts, whether or not a client has noticed it.
                sleep(Duration::from_millis(500));
                broker.ctl(&["set_vm_memory_high_watermark", "0.4"])?;
            }
            Self::Restart | Self::Kill => {
                match self {
                    Self::Kill => broker.kill()?,
                    _ => broker.stop()?,
                }
                if site.is_cluster() {
                    others_serve();
                }
                broker.restart()?;
            }
            Self::Freeze => {
                broker.pause()?;
                // The length of the silence is the fault.
                sleep(SILENCE);
                broker.resume()?;
            }
        }
        Ok(())
    }
}

/// Longer than two heartbeats.
const SILENCE: Duration = Duration::from_millis(2500);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cut => "connections cut",
            Self::Reset => "connections reset",
            Self::CutAmid => "cut within a frame",
            Self::Crumbs => "bytes in small pieces",
            Self::Stall => "nothing passes",
            Self::ForcedClose => "closed by operator",
            Self::Alarm => "memory alarm",
            Self::Restart => "node restarted",
            Self::Kill => "node killed",
            Self::Freeze => "node frozen",
        })
    }
}
