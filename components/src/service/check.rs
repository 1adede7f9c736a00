//! What a contract may ask for. The bounds keep one request from costing much more than another.

use std::{collections::HashSet, net::IpAddr};

use yiqiu_base::{Problem, Size, name};

use crate::model::{COUNT_MOST, ComponentType, Need, NewCContract, Port, Variable};

/// The longest name: with `-99` behind it, a component's name is still one.
const NAME_MOST: usize = name::MAX - 3;
const ARGUMENTS_MOST: usize = 256;
const VARIABLES_MOST: usize = 256;
const PORTS_MOST: usize = 64;
const TEXT_MOST: usize = 32 << 10;
const CLOCK_MOST: i64 = 1_000_000;

pub(super) fn new_contract(ask: &NewCContract) -> Result<(), Problem> {
    let NewCContract { id: _, name, component_type, count, need, region, zone, spread } = ask;
    name::check("ccontract", name)?;
    if name.len() > NAME_MOST {
        return Err(Problem::invalid(format!("the name of a ccontract has at most {NAME_MOST} characters")));
    }
    if !(1..=COUNT_MOST).contains(count) {
        return Err(Problem::invalid(format!("count is {count}: expected 1 to {COUNT_MOST}")));
    }
    for (what, place) in [("region", region), ("zone", zone)] {
        if let Some(place) = place {
            name::check(what, place)?; // an id passes too
        }
    }
    // Whoever chooses the host's port can have it once a host.
    if *count > 1 && !spread.required && need.ports.iter().any(|port| port.host_port != 0) {
        return Err(Problem::invalid(
            "a host_port can be chosen for one component, or with a required spread: leave it out and the host picks",
        ));
    }
    self::need(need)?;
    enough(*component_type, need.size)
}

/// What the driver of a component type could not run is refused here, not on the host.
fn enough(kind: ComponentType, size: Size) -> Result<(), Problem> {
    let least = kind.least();
    match least.beyond(size).first() {
        None => Ok(()),
        Some((dimension, _)) => Err(Problem::invalid(format!(
            "need.size asks for {}: a {kind} needs at least {}",
            dimension.shown(size.get(*dimension)),
            dimension.shown(least.get(*dimension))
        ))),
    }
}

fn need(need: &Need) -> Result<(), Problem> {
    let Need { size, image, command, environment, ports, min_clock_mhz } = need;
    size.check("need.size")?;
    name::check("image", image)?;
    bounded("need.command", "arguments", command.len(), ARGUMENTS_MOST)?;
    bounded("need.command", "bytes", command.iter().map(String::len).sum(), TEXT_MOST)?;
    if command.first().is_some_and(String::is_empty) || command.iter().any(|argument| argument.contains('\0')) {
        return Err(Problem::invalid("need.command begins with the name of a program, and holds no NUL"));
    }
    bounded("need.environment", "variables", environment.len(), VARIABLES_MOST)?;
    let bytes = environment.iter().map(|Variable { name, value }| name.len() + value.len()).sum();
    bounded("need.environment", "bytes", bytes, TEXT_MOST)?;
    let mut names = HashSet::new();
    for Variable { name, value } in environment {
        variable(name)?;
        if value.contains('\0') {
            return Err(Problem::invalid(format!("the value of the variable {name} holds a NUL")));
        }
        if !names.insert(name) {
            return Err(Problem::invalid(format!("need.environment names {name} twice")));
        }
    }
    bounded("need.ports", "ports", ports.len(), PORTS_MOST)?;
    let (mut inner, mut outer) = (HashSet::new(), HashSet::new());
    for Port { node_port, host_port, host_address } in ports {
        if *node_port == 0 {
            return Err(Problem::invalid("a node_port is 0: expected 1 to 65535"));
        }
        if !host_address.is_empty() && host_address.parse::<IpAddr>().is_err() {
            let shown = name::shown(host_address);
            return Err(Problem::invalid(format!("the host_address `{shown}` is not an IP address")));
        }
        if !inner.insert(*node_port) || (*host_port != 0 && !outer.insert(*host_port)) {
            return Err(Problem::invalid(format!("need.ports names the port {node_port}:{host_port} twice")));
        }
    }
    match min_clock_mhz {
        Some(mhz) if !(1..=CLOCK_MOST).contains(mhz) => {
            Err(Problem::invalid(format!("need.min_clock_mhz is {mhz}: expected 1 to {CLOCK_MOST}")))
        }
        Some(_) | None => Ok(()),
    }
}

/// A name of a variable as in POSIX (IEEE 1003.1, 8.1): letters, digits and `_`, no digit first.
fn variable(name: &str) -> Result<(), Problem> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if (1..=256).contains(&name.len()) && name.chars().all(good) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(());
    }
    Err(Problem::invalid(format!(
        "`{}` is not the name of a variable: expected letters, digits and _, with no digit first",
        name::shown(name)
    )))
}

fn bounded(field: &str, of_what: &str, have: usize, most: usize) -> Result<(), Problem> {
    if have <= most {
        return Ok(());
    }
    Err(Problem::invalid(format!("{field} has {have} {of_what}: at most {most}")))
}

#[cfg(test)]
mod tests {
    use yiqiu_base::Code;

    use super::*;
    use crate::model::{Across, Spread};

    fn good() -> NewCContract {
        NewCContract {
            id: None,
            name: "web".into(),
            component_type: ComponentType::Container,
            count: 2,
            need: Need {
                size: Size { cpu_millicores: 100, memory_bytes: 6 << 20, ..Size::ZERO },
                image: "busybox".into(),
                command: vec!["httpd".into(), "-f".into()],
                environment: vec![Variable { name: "A_1".into(), value: "x=y".into() }],
                ports: vec![Port { node_port: 80, host_port: 0, host_address: String::new() }],
                min_clock_mhz: Some(2000),
            },
            region: None,
            zone: Some("z1".into()),
            spread: Spread::default(),
        }
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(new_contract(&good()), Ok(()));
        let port =
            |node_port, host_port, host_address: &str| Port { node_port, host_port, host_address: host_address.into() };
        let variable = |name: &str, value: &str| Variable { name: name.into(), value: value.into() };
        type Spoil = Box<dyn Fn(&mut NewCContract)>;
        let bad: Vec<(&str, Spoil)> = vec![
            ("no name", Box::new(|a| a.name.clear())),
            ("a name too long to number", Box::new(|a| a.name = "a".repeat(61))),
            ("none", Box::new(|a| a.count = 0)),
            ("too many", Box::new(|a| a.count = 101)),
            ("no memory", Box::new(|a| a.need.size.memory_bytes = 0)),
            ("less memory than a container can be run with", Box::new(|a| a.need.size.memory_bytes = (6 << 20) - 1)),
            ("negative cpu", Box::new(|a| a.need.size.cpu_millicores = -1)),
            ("absurd disk", Box::new(|a| a.need.size.disk_bytes = i64::MAX)),
            ("an image that is a path", Box::new(|a| a.need.image = "../x".into())),
            ("an empty program", Box::new(|a| a.need.command = vec![String::new()])),
            ("a NUL", Box::new(|a| a.need.command = vec!["a\0b".into()])),
            ("too many arguments", Box::new(|a| a.need.command = vec!["a".into(); 257])),
            ("too long an argument", Box::new(|a| a.need.command = vec!["a".repeat(40_000)])),
            ("a variable with =", Box::new(move |a| a.need.environment = vec![variable("A=B", "")])),
            ("a variable that is a digit", Box::new(move |a| a.need.environment = vec![variable("1A", "")])),
            ("a variable twice", Box::new(move |a| a.need.environment = vec![variable("A", "1"), variable("A", "2")])),
            ("port 0", Box::new(move |a| a.need.ports = vec![port(0, 0, "")])),
            ("a port twice", Box::new(move |a| a.need.ports = vec![port(80, 0, ""), port(80, 0, "")])),
            ("no address", Box::new(move |a| a.need.ports = vec![port(80, 0, "here")])),
            ("one host port for two", Box::new(move |a| a.need.ports = vec![port(80, 8080, "")])),
            ("no clock", Box::new(|a| a.need.min_clock_mhz = Some(0))),
            ("a zone that is none", Box::new(|a| a.zone = Some("Z 1".into()))),
        ];
        for (what, spoil) in bad {
            let mut ask = good();
            spoil(&mut ask);
            assert_eq!(new_contract(&ask).map_err(|p| p.code), Err(Code::InvalidArgument), "{what}");
        }
        let mut small = good();
        small.need.size.memory_bytes = 1 << 20;
        let refusal = new_contract(&small).unwrap_err().detail;
        assert_eq!(refusal, "need.size asks for 1 MiB memory: a container needs at least 6 MiB memory");
        let mut apart = good();
        apart.need.ports = vec![port(80, 8080, "127.0.0.1")];
        apart.spread = Spread { across: Across::Host, required: true };
        assert_eq!(new_contract(&apart), Ok(()));
    }
}
