//! Packets of an interface as tcpdump writes them and tshark reads them: somebody else's opinion of
//! what is on the wire.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, ChildStderr, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    lab::Lab,
    netns::{Netns, run},
    wait::WAIT_TIMEOUT,
};

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    file: PathBuf,
    tcpdump: Child,
    says: BufReader<ChildStderr>,
}

impl Capture {
    /// Captures `count` packets on `ifname` of `netns` that match `filter` (pcap-filter(7)).
    pub fn start(lab: &Lab, netns: &Netns, ifname: &str, count: usize, filter: &str) -> Self {
        let file = lab.dir().join(format!("{}-{ifname}.pcap", netns.name()));
        let mut tcpdump = netns
            .command("tcpdump")
            // Not in immediate mode, in which the ring has a slot of 256 KiB for each packet.
            .args(["-n", "-p", "-U", "-Z", "root", "-i", ifname])
            .args(["-c", &count.to_string(), "-w"])
            .arg(&file)
            .arg(filter)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut says = BufReader::new(tcpdump.stderr.take().unwrap());
        let mut line = String::new();
        says.read_line(&mut line).unwrap();
        assert!(line.contains("listening on"), "{line}");
        Self {
            file,
            tcpdump,
            says,
        }
    }

    /// Waits until all have come, and reads `fields` of each: tshark's names, every occurrence in
    /// the order of the headers.
    ///
    /// # Panics
    ///
    /// They don't come.
    #[track_caller]
    pub fn finish(mut self, fields: &[&str]) -> Vec<Decoded> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let is_complete = !self.is_running();
        self.stop();
        let mut statistics = String::new();
        self.says.read_to_string(&mut statistics).unwrap();
        assert!(is_complete, "not all packets came: {statistics}");
        let file = self.file.to_str().unwrap().to_owned();
        let mut args = vec!["-n", "-r", &file, "-d", "udp.port==4789,vxlan"];
        args.extend([
            "-o",
            "ip.check_checksum:TRUE",
            "-o",
            "udp.check_checksum:TRUE",
        ]);
        args.extend(["-T", "fields", "-E", "separator=/t", "-E", "aggregator=;"]);
        for field in fields {
            args.extend(["-e", field]);
        }
        let text = run("tshark", &args);
        text.lines()
            .map(|line| {
                let values = line.split('\t').map(|values| {
                    let values = values.split(';').filter(|value| !value.is_empty());
                    // Flags are numbers up to Wireshark 4.0, and words since.
                    let values = values.map(|value| match value {
                        "True" => "1",
                        "False" => "0",
                        other => other,
                    });
                    values.map(str::to_owned).collect()
                });
                Decoded(
                    fields
                        .iter()
                        .map(|field| (*field).to_owned())
                        .zip(values)
                        .collect(),
                )
            })
            .collect()
    }
}

impl Capture {
    fn is_running(&mut self) -> bool {
        self.tcpdump.try_wait().unwrap().is_none()
    }

    fn stop(&mut self) {
        if self.is_running() {
            let pid = i32::try_from(self.tcpdump.id()).unwrap();
            kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
            self.tcpdump.wait().unwrap();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The fields of one packet.
#[derive(Debug, Clone)]
pub struct Decoded(HashMap<String, Vec<String>>);

impl Decoded {
    /// Every occurrence of a field, the outermost header's first.
    pub fn all(&self, field: &str) -> &[String] {
        self.0.get(field).map_or(&[], Vec::as_slice)
    }

    /// The occurrence of a field in the outermost header that has it.
    #[track_caller]
    pub fn outer(&self, field: &str) -> &str {
        self.all(field)
            .first()
            .unwrap_or_else(|| panic!("no {field}: {self:?}"))
    }

    /// The second one's.
    #[track_caller]
    pub fn inner(&self, field: &str) -> &str {
        self.all(field)
            .get(1)
            .unwrap_or_else(|| panic!("no second {field}: {self:?}"))
    }
}
