//! Joins two network namespaces with a delay, and prints the emulator's lateness when stdin closes:
//!
//! ```sh
//! ip netns add a; ip netns add b
//! cargo run -p l4proxy-lab --example two_hosts -- /run/netns/a 10.0.0.1 /run/netns/b 10.0.0.2 25
//! ```
//!
//! Then give each device `wan0` its address and a default route, and ping.

use l4proxy_lab::device::{DeviceConfig, Wire};
use l4proxy_lab::emulator::{Emulator, EmulatorConfig};
use l4proxy_lab::link::LinkProperties;
use l4proxy_lab::network::{LinkConfig, NetworkConfig};
use std::io::{Read, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first_namespace, first, second_namespace, second, delay_ms] = arguments.as_slice() else {
        return Err("five arguments: namespace address namespace address milliseconds".into());
    };
    let properties = LinkProperties { delay_ns: delay_ms.parse::<u64>()? * 1_000_000, ..Default::default() };
    let link = |name: &str, from_host, to_host, from: &str, to: &str| {
        let pairs = vec![(from.parse()?, to.parse()?)];
        Ok::<_, std::net::AddrParseError>(LinkConfig {
            name: name.into(),
            from_host,
            to_host,
            pairs,
            properties: properties.clone(),
        })
    };
    let links = vec![link("first>second", 0, 1, first, second)?, link("second>first", 1, 0, second, first)?];
    let device = |host: &str, namespace: &str| DeviceConfig {
        host: host.into(),
        wire: Wire::Tun,
        namespace: namespace.into(),
        device: "wan0".into(),
    };
    let devices = vec![device("first", first_namespace), device("second", second_namespace)];
    let emulator = Emulator::start(EmulatorConfig {
        devices,
        network: NetworkConfig { links, ..Default::default() },
        precise: false,
    })?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    writeln!(std::io::stdout(), "{:#?}", emulator.stats())?;
    Ok(())
}
