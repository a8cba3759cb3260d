//! A cable of limited bandwidth: two network namespaces of our own, joined by the kernel's virtual Ethernet, of which `tc tbf` shapes both ends.
//!
//! It leads from a Unix socket to a broker of this machine, whose own networks are left alone.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use microlambda_demo::relay::{self, Endpoint};
use microlambda_demo::{Process, Programs, unshare};
use tempfile::TempDir;

use crate::Error;

/// Bytes that pass at once before the rate holds are those of so long, s; at least [`BURST_BYTES_MIN`].
const BURST_S: f64 = 0.001;
/// Two packets of the cable's size.
const BURST_BYTES_MIN: f64 = 3_200.0;
/// What `tc tbf` counts of a full packet, by what of it is a stream's: Ethernet, IP and TCP put 66 bytes before 1448.
pub const COUNTED_BY_CARRIED: f64 = 1_514.0 / 1_448.0;
/// The cable is laid within this time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(5);
/// Relays inside.
const RELAYS: usize = 2;

/// Makes both ends and becomes the relay of the end that is the broker's. Arguments: the program that relays, a folder for sockets, and the shape.
const SCRIPT: &str = r#"
set -eu
relay=$1 folder=$2 shape=$3
export relay folder shape
ip link set lo up
mkfifo "$folder/held" "$folder/plugged"
unshare --net sh -euc '
    echo >"$folder/held"
    read -r _ <"$folder/plugged"
    ip addr add 10.78.0.2/30 dev far
    ip link set far up
    tc qdisc add dev far root $shape
    exec "$relay" relay --from "unix:$folder/far" --to tcp:10.78.0.1:1883' &
far=$!
read -r _ <"$folder/held"
ip link add near type veth peer name far netns $far
ip addr add 10.78.0.1/30 dev near
ip link set near up
tc qdisc add dev near root $shape
echo >"$folder/plugged"
exec "$relay" relay --from tcp:10.78.0.1:1883 --to "unix:$folder/near"
"#;

/// A cable; it goes with its processes on drop.
pub struct Cable {
    far: PathBuf,
    _ends: Process,
    _outer: Process,
    _sockets: TempDir,
}

impl Cable {
    /// Lays a cable to `broker`. Its sockets are in the folder for temporary files, as their paths must be short.
    ///
    /// # Errors
    /// The system does not give namespaces, virtual cables or their shaping to this user; what it said.
    pub fn lay(programs: &Programs, mbit_per_s: f64, broker: SocketAddr) -> Result<Self, Error> {
        let sockets = tempfile::Builder::new().prefix("microlambda-cable").tempdir()?;
        let folder = sockets.path();
        let (near, far, log) = (folder.join("near"), folder.join("far"), folder.join("cable.log"));
        let outer = relay::command(programs, &format!("unix:{}", near.display()), &format!("tcp:{broker}"));
        let outer = Process::start("relay", outer, &folder.join("outer.log"))?;
        let burst_bytes = (mbit_per_s * 1e6 / 8.0 * BURST_S).max(BURST_BYTES_MIN);
        let shape = format!("tbf rate {:.0}kbit burst {burst_bytes:.0} latency 1000ms", mbit_per_s * 1e3);
        let mut ends = unshare(&["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        ends.extend(["sh", "-c", SCRIPT, "sh"].map(Into::into));
        ends.extend([programs.demo.clone().into_os_string(), folder.into(), shape.into()]);
        let mut ends = Process::start("cable", ends, &log)?;
        let until = Instant::now() + PATIENCE;
        while fs::read_to_string(&log)?.lines().filter(|line| *line == relay::READY).count() < RELAYS || !near.exists()
        {
            if ends.check_running().is_err() || Instant::now() > until {
                return Err(fs::read_to_string(&log)?.lines().last().unwrap_or("no answer").to_owned().into());
            }
            thread::sleep(LOOK);
        }
        Ok(Self { far, _ends: ends, _outer: outer, _sockets: sockets })
    }

    /// The end from which it leads to the broker.
    pub fn far(&self) -> Endpoint {
        Endpoint::Unix(self.far.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener};

    use microlambda_demo::relay::Stream;

    use super::*;

    #[test]
    fn bytes_take_their_time_through_a_cable_and_arrive() {
        let broker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let programs = Programs::find().expect("the programs");
        let address = broker.local_addr().expect("an address");
        let cable = match Cable::lay(&programs, 1.0, address) {
            Ok(cable) => cable,
            Err(why) => return eprintln!("SKIPPED: no shaping here: {why}"),
        };
        let mut client = Stream::connect(&cable.far()).expect("a connection");
        let (mut served, _) = broker.accept().expect("a connection");
        let sent: Vec<u8> = (0..40_000_u32).map(|i| (i % 251) as u8).collect();
        let began = Instant::now();
        client.write_all(&sent).expect("a write");
        let mut came = vec![0; sent.len()];
        served.read_exact(&mut came).expect("a read");
        let took = began.elapsed();
        assert_eq!(came, sent);
        // 40 KB less the burst at 125 KB a second.
        assert!(took >= Duration::from_millis(250), "40 KB at 1 Mbit/s took {took:?}");
    }
}
