//! An authority, a certificate for the members and one for their clients.

use std::{
    fs::File,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SanType,
};

/// PEM files.
#[derive(Debug)]
pub struct Certificates {
    /// Whom both sides believe.
    pub ca: PathBuf,
    /// The members', for all their addresses.
    pub server_cert: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// A client's.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them in a folder; the members' are for these addresses.
    pub fn make(dir: &Path, ips: &[Ipv4Addr]) -> Self {
        let file = |name: &str, text: String| {
            let path = dir.join(name);
            let mut options = File::options();
            let mut file = options
                .create(true)
                .write(true)
                .mode(0o600)
                .open(&path)
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
            path
        };
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = authority.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(authority, key);

        let issue = |name: &str, params: CertificateParams| {
            let key = KeyPair::generate().unwrap();
            let cert = params.signed_by(&key, &issuer).unwrap();
            [
                file(&format!("{name}.pem"), cert.pem()),
                file(&format!("{name}-key.pem"), key.serialize_pem()),
            ]
        };
        let mut server = CertificateParams::new(Vec::new()).unwrap();
        server.subject_alt_names = ips
            .iter()
            .map(|ip| SanType::IpAddress(IpAddr::V4(*ip)))
            .collect();
        // Members are each other's clients.
        server.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let mut client = CertificateParams::new(Vec::new()).unwrap();
        // Where it has a common name, etcd takes that for the user (its guide to authentication).
        client.distinguished_name = DistinguishedName::new();
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let [server_cert, server_key] = issue("etcd-member", server);
        let [cert, key] = issue("etcd-client", client);
        Self {
            ca: file("etcd-ca.pem", ca),
            server_cert,
            server_key,
            cert,
            key,
        }
    }
}
