//! Offline registry commands: export, import, check. They work without an agent.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    fs::{self, File, OpenOptions},
    io::BufReader,
    time::timeout,
};

use super::instance::InstanceRecord;
use crate::{
    config::InstancePaths,
    model::Name,
    registry::{self, Counts, Findings, Imported, Registry, RegistrySettings, limited},
};

/// For how long a registry that does not answer is waited for.
const OPENING: Duration = Duration::from_secs(15);
/// The same for each answer of one that is open.
const ANSWER: Duration = Duration::from_secs(30);

/// Writes the whole registry into `file`, which is replaced only once all is written.
pub async fn export(
    named: Option<RegistrySettings>,
    instance: &Name,
    file: &Path,
) -> anyhow::Result<Counts> {
    let registry = open_existing(named, instance).await?;
    let writing = || format!("can't write {}", file.display());
    // A device or a pipe can't be replaced by a file.
    let is_special = fs::metadata(file)
        .await
        .is_ok_and(|metadata| !metadata.is_file());
    if is_special {
        let out = OpenOptions::new().write(true).open(file).await;
        return Ok(registry::export(&*registry, out.with_context(writing)?).await?);
    }
    let unfinished = with_suffix(file, ".new");
    let counts = write_whole(&*registry, &unfinished).await;
    match counts {
        Ok(counts) => {
            fs::rename(&unfinished, file).await.with_context(writing)?;
            Ok(counts)
        }
        Err(error) => {
            // It is of no use to anybody; that it stays, if it does, harms nobody.
            let _ = fs::remove_file(&unfinished).await;
            Err(error.context(writing()))
        }
    }
}

async fn write_whole(registry: &dyn Registry, unfinished: &Path) -> anyhow::Result<Counts> {
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(unfinished)
        .await?;
    let counts = registry::export(registry, &mut out).await?;
    out.sync_all().await?;
    Ok(counts)
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes what `file` holds and the registry does not have. A SQLite registry that is missing is made.
pub async fn import(
    named: Option<RegistrySettings>,
    instance: &Name,
    file: &Path,
) -> anyhow::Result<Imported> {
    let source = File::open(file)
        .await
        .with_context(|| format!("can't read {}", file.display()))?;
    let registry = open(&which(named, instance)?).await?;
    Ok(registry::import(&*registry, BufReader::new(source)).await?)
}

/// Whether the registry agrees with itself; with `repair`, mends what needs no decision.
pub async fn check(
    named: Option<RegistrySettings>,
    instance: &Name,
    repair: bool,
) -> anyhow::Result<Findings> {
    let registry = open_existing(named, instance).await?;
    Ok(registry::check(&*registry, repair).await?)
}

/// The registry that is named, or that of the instance's last agent.
fn which(named: Option<RegistrySettings>, instance: &Name) -> anyhow::Result<RegistrySettings> {
    if let Some(named) = named {
        return Ok(named);
    }
    match InstanceRecord::read(&InstancePaths::new(instance)) {
        Ok(Some(record)) => Ok(record.registry),
        Ok(None) => bail!(
            "which registry? No agent of instance {instance} has run on this host since it booted: name \
             the registry with --registry URL"
        ),
        Err(error) if is_denied(&error) => bail!(
            "only root may read which registry instance {instance} has: be root, or name it with \
             --registry URL"
        ),
        Err(error) => Err(error),
    }
}

pub(super) fn is_denied(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Opens a registry that is there: opening would make a SQLite file.
async fn open_existing(
    named: Option<RegistrySettings>,
    instance: &Name,
) -> anyhow::Result<Arc<dyn Registry>> {
    let settings = which(named, instance)?;
    if let Some(file) = settings.url.strip_prefix("sqlite://")
        && !fs::try_exists(file).await.unwrap_or(true)
    {
        bail!("there is no registry {}: see --registry", settings.url);
    }
    open(&settings).await
}

async fn open(settings: &RegistrySettings) -> anyhow::Result<Arc<dyn Registry>> {
    let opening = limited::open(&settings.url, ANSWER, registry::open(settings));
    let opened = timeout(OPENING, opening).await;
    let opened = opened.with_context(|| {
        format!(
            "registry {} has not answered within {} s: see whether it runs and can be reached",
            settings.url,
            OPENING.as_secs()
        )
    })?;
    Ok(opened?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Change, Network};

    async fn furnished(folder: &Path) -> RegistrySettings {
        let settings = RegistrySettings::new(format!("sqlite://{}/registry.db", folder.display()));
        let registry = registry::open(&settings).await.unwrap();
        let network = Network::new("blue".parse().unwrap(), "42".parse().unwrap());
        let making = [Change::CreateNetwork(network)];
        registry.commit(&making).await.unwrap();
        settings
    }

    fn nobody() -> Name {
        "offline-registry-test-nobody".parse().unwrap()
    }

    #[tokio::test]
    async fn what_is_exported_can_be_imported_elsewhere_and_both_agree_with_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("backup.jsonl");
        let from = furnished(folder.path()).await;
        let counts = export(Some(from), &nobody(), &file).await.unwrap();
        assert_eq!(counts.networks, 1);
        assert!(!with_suffix(&file, ".new").exists());
        let to = RegistrySettings::new(format!("sqlite://{}/other.db", folder.path().display()));
        let imported = import(Some(to.clone()), &nobody(), &file).await.unwrap();
        assert_eq!((imported.made.networks, imported.refused), (1, 0));
        let findings = check(Some(to), &nobody(), false).await.unwrap();
        assert_eq!(findings.count, 0);
    }

    #[tokio::test]
    async fn neither_an_export_nor_a_check_makes_a_registry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("typo.db");
        let settings = RegistrySettings::new(format!("sqlite://{}", path.display()));
        let file = folder.path().join("backup.jsonl");
        for error in [
            export(Some(settings.clone()), &nobody(), &file)
                .await
                .unwrap_err(),
            check(Some(settings), &nobody(), false).await.unwrap_err(),
        ] {
            assert!(
                error.to_string().starts_with("there is no registry"),
                "{error}"
            );
        }
        assert!(!path.exists() && !file.exists());
    }

    #[tokio::test]
    async fn without_an_agents_record_the_registry_has_to_be_named() {
        let error = check(None, &nobody(), false).await.unwrap_err().to_string();
        assert!(error.contains("--registry URL"), "{error}");
    }
}
