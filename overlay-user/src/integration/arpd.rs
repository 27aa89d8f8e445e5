//! A miss-handling daemon's folder, translated to the model: `arp/<ip>` holds a MAC, `fdb/<mac>` the
//! underlay address of the VTEP behind which it lives, one line each.
//!
//! - All or nothing: one problem anywhere, and all problems are reported and nothing is changed.
//! - An import stands for its VNI's whole folder: what an earlier one made and this one doesn't
//!   name goes away; what it names unchanged stays untouched. It knows its own by the endpoint's
//!   name, made of VNI and MAC, on a node without an agent.
//! - A VTEP serves several networks, so a node is removed only when no endpoint is left on it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::{self, Display},
    fs,
    hash::Hash,
    io::{self, Read},
    net::IpAddr,
    path::Path,
    str::FromStr,
};

use ipnet::IpNet;

use crate::model::{Change, Endpoint, Mac, Name, Network, Node, Snapshot, Vni, Vtep, ipam};

/// Longest file that is read, bytes: a MAC or an address with room for empty lines.
const LONGEST_FILE: u64 = 4096;

/// How many problems the one line names.
const SHOWN: usize = 10;

/// Why nothing was imported: everything that has to be put right, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportError {
    /// Each names the file or the address, and what is wrong with it. Never empty.
    pub problems: Vec<String>,
}

impl std::error::Error for ImportError {}

impl Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let shown: Vec<&str> = self
            .problems
            .iter()
            .take(SHOWN)
            .map(String::as_str)
            .collect();
        let noun = if count == 1 { "problem" } else { "problems" };
        write!(
            f,
            "nothing was imported, {count} {noun}: {}",
            shown.join("; ")
        )?;
        if count > SHOWN {
            write!(f, "; and {} more", count - SHOWN)?;
        }
        Ok(())
    }
}

/// What stands in a folder, not yet understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folder {
    /// Of `arp/`: file name (an IP) and contents (a MAC).
    pub arp: BTreeMap<String, String>,
    /// Of `fdb/`: file name (a MAC) and contents (a VTEP's IP).
    pub fdb: BTreeMap<String, String>,
    /// What could not be read.
    pub problems: Vec<String>,
}

impl Folder {
    /// Reads all files of both subfolders. One of the two may be missing; dot-files are left out.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let mut folder = Self::default();
        let (arp, fdb) = (path.join("arp"), path.join("fdb"));
        if !arp.exists() && !fdb.exists() {
            // An empty import would remove all that an earlier one made: a mistyped path must not.
            folder.problems.push(format!(
                "{} has neither arp/ nor fdb/: name the folder that holds them",
                path.display()
            ));
            return folder;
        }
        folder.arp = read_files(&arp, &mut folder.problems);
        folder.fdb = read_files(&fdb, &mut folder.problems);
        folder
    }
}

fn read_files(path: &Path, problems: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return files,
        Err(error) => {
            problems.push(format!("{}: {error}", path.display()));
            return files;
        }
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                problems.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        match read_file(&entry.path()) {
            Ok(text) => {
                files.insert(name, text);
            }
            Err(error) => problems.push(format!("{}: {error}", entry.path().display())),
        }
    }
    files
}

fn read_file(path: &Path) -> io::Result<String> {
    // Before it is opened: a FIFO would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    let mut text = String::new();
    let length = fs::File::open(path)?
        .take(LONGEST_FILE + 1)
        .read_to_string(&mut text)?;
    if u64::try_from(length).is_ok_and(|length| length <= LONGEST_FILE) {
        Ok(text)
    } else {
        Err(io::Error::other(format!(
            "is longer than {LONGEST_FILE} bytes"
        )))
    }
}

/// What an import comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For one commit. Empty: the registry holds it all already.
    pub changes: Vec<Change>,
    /// How many endpoints the folder holds.
    pub endpoints: usize,
    /// Behind how many VTEPs they are.
    pub vteps: usize,
}

/// Makes VNI `vni` of `snapshot` hold what the folder says, behind VTEPs that listen on UDP `port`
/// (host byte order).
pub fn plan(
    folder: &Folder,
    vni: Vni,
    port: u16,
    snapshot: &Snapshot,
) -> Result<Plan, ImportError> {
    let Some(network) = snapshot.networks.iter().find(|network| network.vni == vni) else {
        return Err(ImportError {
            problems: vec![format!(
                "network {vni} does not exist: make it with `overlay network create NAME --vni {vni}`"
            )],
        });
    };
    let mut import = Import {
        network,
        port,
        snapshot,
        problems: folder.problems.clone(),
    };
    let vteps = import.parse_fdb(folder);
    let addresses = import.parse_arp(folder, &vteps);
    let nodes = import.nodes(&vteps);
    let endpoints = import.endpoints(&vteps, addresses, &nodes);
    import.check_taken(&endpoints);
    if import.problems.is_empty() {
        Ok(Plan {
            endpoints: endpoints.len(),
            vteps: nodes.len(),
            changes: import.changes(&nodes, endpoints),
        })
    } else {
        Err(ImportError {
            problems: import.problems,
        })
    }
}

/// An import under way.
struct Import<'a> {
    network: &'a Network,
    port: u16,
    snapshot: &'a Snapshot,
    problems: Vec<String>,
}

impl<'a> Import<'a> {
    /// MAC -> VTEP.
    fn parse_fdb(&mut self, folder: &Folder) -> BTreeMap<Mac, IpAddr> {
        let mut parsed: BTreeMap<Mac, (IpAddr, &String)> = BTreeMap::new();
        for (file, text) in &folder.fdb {
            let entry = file
                .parse::<Mac>()
                .map_err(|error| error.to_string())
                .and_then(|mac| {
                    let vtep = held(text, "an IP address")?;
                    Ok((mac, allowed(vtep, ipam::is_unicast)?))
                });
            match entry {
                Err(why) => self.problem(format!("fdb/{file}: {why}")),
                Ok((mac, vtep)) => {
                    if let Some((_, earlier)) = parsed.insert(mac, (vtep, file)) {
                        self.problem(format!(
                            "fdb/{earlier} and fdb/{file} are the same MAC: remove one"
                        ));
                    }
                }
            }
        }
        parsed
            .into_iter()
            .map(|(mac, (vtep, _))| (mac, vtep))
            .collect()
    }

    /// MAC -> its addresses.
    fn parse_arp(
        &mut self,
        folder: &Folder,
        vteps: &BTreeMap<Mac, IpAddr>,
    ) -> HashMap<Mac, BTreeSet<IpAddr>> {
        let mut files: HashMap<IpAddr, &String> = HashMap::new();
        let mut addresses: HashMap<Mac, BTreeSet<IpAddr>> = HashMap::new();
        // A MAC whose own file is wrong has its line already.
        let named: HashSet<Mac> = folder
            .fdb
            .keys()
            .filter_map(|file| file.parse().ok())
            .collect();
        for (file, text) in &folder.arp {
            let entry = parse_ip(file).and_then(|ip| {
                let mac = held(text, "a unicast MAC such as 02:42:07:07:07:02")?;
                Ok((allowed(ip, ipam::is_assignable)?, mac))
            });
            let (ip, mac) = match entry {
                Ok(entry) => entry,
                Err(why) => {
                    self.problem(format!("arp/{file}: {why}"));
                    continue;
                }
            };
            if let Some(earlier) = files.insert(ip, file) {
                self.problem(format!(
                    "arp/{earlier} and arp/{file} are the same IP: remove one"
                ));
            }
            if !self.network.allows(ip) {
                let name = &self.network.name;
                self.problem(format!("arp/{file}: outside the subnets of network {name}"));
            }
            if !vteps.contains_key(&mac) && !named.contains(&mac) {
                self.problem(format!(
                    "arp/{file}: there is no fdb/{mac} that says where {mac} lives"
                ));
            }
            addresses.entry(mac).or_default().insert(ip);
        }
        addresses
    }

    /// VTEP -> the node that stands for it, existing or to be made.
    fn nodes(&mut self, vteps: &BTreeMap<Mac, IpAddr>) -> BTreeMap<IpAddr, Node> {
        let by_vtep = self.nodes_by(|node| node.vtep.ip.ip());
        let by_name = self.nodes_by(|node| &node.name);
        let mut nodes = BTreeMap::new();
        for ip in vteps.values().copied().collect::<BTreeSet<_>>() {
            let name = node_name(ip);
            let vtep = Vtep {
                ip: ip.into(),
                port: self.port,
            };
            let node = match (by_vtep.get(&ip), by_name.get(&name)) {
                (Some(node), _) if node.agent => {
                    self.problem(format!(
                        "VTEP {ip} is node {}, which runs an agent: add its endpoints there and remove its fdb files",
                        node.name
                    ));
                    continue;
                }
                (Some(node), _) => Node {
                    vtep,
                    ..Node::clone(node)
                },
                (None, Some(node)) => {
                    self.problem(format!(
                        "VTEP {ip} needs the node name {name}, which is taken by a node with VTEP {}: rename or remove that one",
                        node.vtep.ip
                    ));
                    continue;
                }
                (None, None) => Node::new(name, vtep, false),
            };
            nodes.insert(ip, node);
        }
        nodes
    }

    fn endpoints(
        &self,
        vteps: &BTreeMap<Mac, IpAddr>,
        mut addresses: HashMap<Mac, BTreeSet<IpAddr>>,
        nodes: &BTreeMap<IpAddr, Node>,
    ) -> Vec<Endpoint> {
        let mut endpoints = Vec::with_capacity(vteps.len());
        for (mac, vtep) in vteps {
            let Some(node) = nodes.get(vtep) else {
                continue;
            };
            let ips = addresses.remove(mac).unwrap_or_default();
            endpoints.push(Endpoint {
                name: endpoint_name(self.network.vni, *mac),
                vni: self.network.vni,
                mac: *mac,
                addresses: ips.into_iter().map(|ip| self.with_prefix(ip)).collect(),
                node: node.name.clone(),
                attachment: None,
                generation: 0,
            });
        }
        endpoints
    }

    fn with_prefix(&self, ip: IpAddr) -> IpNet {
        self.network
            .subnet_of(ip)
            .and_then(|subnet| IpNet::new(ip, subnet.prefix_len()).ok())
            .unwrap_or_else(|| IpNet::from(ip))
    }

    /// Endpoints that no import made keep their names, MACs and addresses.
    fn check_taken(&mut self, wanted: &[Endpoint]) {
        let ours = self.earlier();
        let others: Vec<&Endpoint> = self
            .snapshot
            .endpoints
            .iter()
            .filter(|endpoint| !ours.contains_key(&endpoint.name))
            .collect();
        let names: HashMap<_, _> = others.iter().map(|other| (&other.name, *other)).collect();
        let in_network = || others.iter().filter(|other| other.vni == self.network.vni);
        let macs: HashMap<_, _> = in_network().map(|other| (other.mac, *other)).collect();
        let ips: HashMap<_, _> = in_network()
            .flat_map(|other| other.ips().map(move |ip| (ip, *other)))
            .collect();

        let mut problems = Vec::new();
        for endpoint in wanted {
            let mut taken = |what: &dyn Display, owner: Option<&&Endpoint>| {
                if let Some(Endpoint { name, node, .. }) = owner {
                    problems.push(format!("{what} is taken by endpoint {name} (node {node})"));
                }
            };
            let name = &endpoint.name;
            taken(&format_args!("endpoint name {name}"), names.get(name));
            let mac = endpoint.mac;
            taken(&format_args!("fdb/{mac}: MAC {mac}"), macs.get(&mac));
            for ip in endpoint.ips() {
                taken(&format_args!("arp/{ip}: IP {ip}"), ips.get(&ip));
            }
        }
        self.problems.append(&mut problems);
    }

    /// What earlier imports made for this VNI.
    fn earlier(&self) -> BTreeMap<&'a Name, &'a Endpoint> {
        let foreign: HashSet<&Name> = self
            .snapshot
            .nodes
            .iter()
            .filter(|node| !node.agent)
            .map(|node| &node.name)
            .collect();
        self.snapshot
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.vni == self.network.vni)
            .filter(|endpoint| foreign.contains(&endpoint.node))
            .filter(|endpoint| endpoint.name == endpoint_name(endpoint.vni, endpoint.mac))
            .map(|endpoint| (&endpoint.name, endpoint))
            .collect()
    }

    /// Removals first: an address may move from one endpoint to another.
    fn changes(&self, nodes: &BTreeMap<IpAddr, Node>, wanted: Vec<Endpoint>) -> Vec<Change> {
        let mut removed = self.earlier();
        let mut made = Vec::new();
        for endpoint in wanted {
            match removed.get(&endpoint.name) {
                Some(old) if is_same(old, &endpoint) => {
                    removed.remove(&endpoint.name);
                }
                _ => made.push(Change::CreateEndpoint(endpoint)),
            }
        }
        let known: HashMap<_, _> = self.nodes_by(|node| &node.name);
        let new_nodes = nodes
            .values()
            .filter(|node| known.get(&node.name) != Some(node));

        let stay = self.snapshot.endpoints.iter();
        let stay = stay.filter(|endpoint| !removed.contains_key(&endpoint.name));
        let in_use: HashSet<&Name> = stay
            .map(|endpoint| &endpoint.node)
            .chain(nodes.values().map(|node| &node.name))
            .collect();
        let deserted = self.snapshot.nodes.iter().filter(|node| {
            let is_imported = !node.agent && node.name == node_name(node.vtep.ip.ip());
            is_imported && !in_use.contains(&node.name)
        });

        let removals = removed.keys().copied().cloned();
        let mut changes: Vec<Change> = removals.map(Change::RemoveEndpoint).collect();
        changes.extend(new_nodes.cloned().map(Change::PutNode));
        changes.extend(made);
        changes.extend(deserted.map(|node| Change::RemoveEmptyNode(node.name.clone())));
        changes
    }

    fn nodes_by<K: Eq + Hash>(&self, key: impl Fn(&'a Node) -> K) -> HashMap<K, &'a Node> {
        let nodes = self.snapshot.nodes.iter();
        nodes.map(|node| (key(node), node)).collect()
    }

    fn problem(&mut self, line: String) {
        self.problems.push(line);
    }
}

/// Whether they differ in nothing but the generation.
fn is_same(old: &Endpoint, new: &Endpoint) -> bool {
    let generation = old.generation;
    *old == Endpoint {
        generation,
        ..new.clone()
    }
}

/// The one line that holds something.
fn one_line(text: &str) -> Result<&str, String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next()) {
        (Some(line), None) => Ok(line),
        (None, _) => Err("is empty".to_owned()),
        (Some(_), Some(_)) => Err("holds more than one line".to_owned()),
    }
}

/// What the file holds. The text itself is not told: the agent may read files that who asked for
/// the import may not, and a link can make any file one of the folder's.
fn held<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    let line = one_line(text)?;
    line.parse().map_err(|_| format!("does not hold {what}"))
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an IP address"))
}

fn allowed(ip: IpAddr, is_allowed: impl Fn(IpAddr) -> bool) -> Result<IpAddr, String> {
    if is_allowed(ip) {
        Ok(ip)
    } else {
        Err(format!("{ip} is not an address that one host can have"))
    }
}

/// `vtep-10-0-0-2`, `vtep-fd00--2`: different for different addresses, since neither family's text
/// can be taken for the other's.
fn node_name(vtep: IpAddr) -> Name {
    plain_name(&format!("vtep-{vtep}"))
}

/// `42-02-42-07-07-07-02`.
fn endpoint_name(vni: Vni, mac: Mac) -> Name {
    plain_name(&format!("{vni}-{mac}"))
}

#[expect(
    clippy::expect_used,
    reason = "addresses, at most 45 characters, behind a letter or a digit"
)]
fn plain_name(text: &str) -> Name {
    text.replace(['.', ':'], "-")
        .parse()
        .expect("letters, digits and dashes only, shorter than 63")
}

#[cfg(test)]
mod tests;
