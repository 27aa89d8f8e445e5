//! Network namespaces: entering them, and making and removing named ones as iproute2 does.
//!
//! Nothing here changes the namespace of the calling thread: `setns` and `unshare` act on one
//! thread, so work in another namespace is done by threads that are kept for it, and that go back to
//! the process's own namespace afterwards.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
            net::UnixDatagram,
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        socket::{getsockopt, sockopt::GetStruct},
        statfs::{FsType, fstatfs},
    },
};
use tokio::{
    runtime::{self, Runtime},
    time::timeout,
};

use super::errno;
use crate::model::Name;

/// Where iproute2 keeps named namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// How long somebody else's making of [`NETNS_DIR`] is waited for, and how often it is looked at.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(10);

const THREAD_NETNS: &str = "/proc/thread-self/ns/net";

/// include/uapi/asm-generic/socket.h, Linux 5.14; the libc crate has no name for it.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Socket option: the number of the socket's network namespace, never used again before the next
/// boot.
#[derive(Debug, Clone, Copy)]
struct NetnsCookie;

nix::getsockopt_impl!(
    NetnsCookie,
    libc::SOL_SOCKET,
    SO_NETNS_COOKIE,
    u64,
    GetStruct<u64>
);

/// An open network namespace. It lives at least as long as this.
#[derive(Debug, Clone)]
pub struct Netns(Arc<File>);

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a name under [`NETNS_DIR`] stands for.
#[derive(Debug)]
pub(super) enum Named {
    /// Nothing.
    Missing,
    /// A network namespace.
    Netns(Netns),
    /// A symbolic link to nothing, for example to the namespace of a process that has ended.
    Dangling,
    /// An empty file: what a crash between the file's and the mount's making leaves behind.
    EmptyFile,
    /// Something else.
    Other,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        File::open(THREAD_NETNS).map(Arc::new).map(Self)
    }

    /// Whether both are the same namespace.
    pub(super) fn is(&self, other: &Self) -> io::Result<bool> {
        let (one, two) = (self.0.metadata()?, other.0.metadata()?);
        Ok((one.dev(), one.ino()) == (two.dev(), two.ino()))
    }

    /// Does `work` in this namespace, on a thread of its own.
    ///
    /// Fails with `EINVAL` if this is a namespace of another type.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let netns = self.clone();
        abroad(move || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            work()
        })
        .await
    }

    /// What tells this namespace from every other, past and future ones included.
    ///
    /// The inode number doesn't: the kernel hands it out again as soon as the namespace is gone.
    pub async fn identity(&self) -> io::Result<String> {
        self.run(identity).await
    }

    /// The namespace with this identity, if it is the calling thread's, the first process's or has
    /// a name. `None`: it is gone, or only its processes know it.
    pub async fn with_identity(wanted: &str) -> io::Result<Option<Self>> {
        let named = match fs::read_dir(NETNS_DIR) {
            Ok(entries) => entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }?;
        let anonymous = [THREAD_NETNS, "/proc/1/ns/net"].map(PathBuf::from);
        for path in anonymous.into_iter().chain(named) {
            // What vanished meanwhile, or is no namespace, is not the one.
            let Ok(netns) = File::open(path).map(|file| Self(Arc::new(file))) else {
                continue;
            };
            if netns
                .identity()
                .await
                .is_ok_and(|identity| identity == wanted)
            {
                return Ok(Some(netns));
            }
        }
        Ok(None)
    }
}

/// The identity of the calling thread's namespace: the boot, and the cookie within it.
fn identity() -> io::Result<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let cookie = getsockopt(&UnixDatagram::unbound()?, NetnsCookie)?;
    Ok(format!("{} {cookie}", boot.trim_end()))
}

/// How long a request to the kernel is waited for. Nothing ends it then; its thread is lost to the others
/// until the kernel lets it go.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How many threads there are for that at most. Further work waits for one of them.
const THREADS: usize = 64;

/// How long one of them waits for work before it ends: longer than looks at the host are apart.
const KEEP_ALIVE: Duration = Duration::from_hours(1);

/// The threads. A runtime of their own, of which nothing else is used: no other work may find itself in
/// a namespace that one of them could not leave.
static THREAD_POOL: OnceLock<(Runtime, Netns)> = OnceLock::new();

fn thread_pool() -> io::Result<&'static (Runtime, Netns)> {
    if let Some(pool) = THREAD_POOL.get() {
        return Ok(pool);
    }
    let home = File::open("/proc/self/ns/net").map(Arc::new).map(Netns)?;
    let runtime = runtime::Builder::new_current_thread()
        .thread_name("netns")
        .max_blocking_threads(THREADS)
        .thread_keep_alive(KEEP_ALIVE)
        .build()?;
    if let Err((late, _)) = THREAD_POOL.set((runtime, home)) {
        late.shutdown_background();
    }
    THREAD_POOL
        .get()
        .ok_or_else(|| io::Error::other("there are no threads for namespaces"))
}

/// Does `work`, a request that may wait for the kernel, on one of the threads.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    timeout(REQUEST_TIMEOUT, on_pool(work))
        .await
        .unwrap_or_else(|_| Err(Errno::ETIMEDOUT.into()))
}

/// The same for work that takes as long as there is to do: a look through all interfaces, for example.
async fn on_pool<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (runtime, _) = thread_pool()?;
    let done = runtime.spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(io::Error::other("the thread for the kernel panicked")))
}

/// The same for work that changes its thread's namespace.
async fn abroad<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (_, home) = thread_pool()?;
    on_pool(move || {
        let done = work();
        if let Err(error) = setns(home, CloneFlags::CLONE_NEWNET) {
            // Whatever comes next on this thread enters the namespace that it is meant for.
            tracing::error!(%error, "a thread stays in a namespace that is not the agent's");
        }
        done
    })
    .await
}

/// Where the namespace `name` is.
pub(super) fn path_of(name: &Name) -> PathBuf {
    Path::new(NETNS_DIR).join(name.as_str())
}

/// Whether a namespace, of whatever type, has the name.
pub(super) fn is_mounted(name: &Name) -> io::Result<bool> {
    match File::open(path_of(name)) {
        Ok(file) => is_namespace(&file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_namespace(file: &File) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type() == FsType(libc::NSFS_MAGIC))
}

/// Looks `name` up.
pub(super) async fn find(name: &Name) -> io::Result<Named> {
    let file = match File::open(path_of(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_link = fs::symlink_metadata(path_of(name)).is_ok();
            return Ok(if is_link {
                Named::Dangling
            } else {
                Named::Missing
            });
        }
        Err(error) => return Err(error),
    };
    kind_of(file).await
}

/// What `path` stands for, which is there.
pub(super) async fn open(path: &Path) -> io::Result<Named> {
    kind_of(File::open(path)?).await
}

async fn kind_of(file: File) -> io::Result<Named> {
    if !is_namespace(&file)? {
        let metadata = file.metadata()?;
        return Ok(if metadata.is_file() && metadata.len() == 0 {
            Named::EmptyFile
        } else {
            Named::Other
        });
    }
    let netns = Netns(Arc::new(file));
    match netns.run(|| Ok(())).await {
        Ok(()) => Ok(Named::Netns(netns)),
        Err(error) if errno(&error) == Errno::EINVAL => Ok(Named::Other),
        Err(error) => Err(error),
    }
}

/// Makes a namespace under `name`, which must be free. `record` gets its identity before its name
/// exists: whatever is found under the name after a crash can be told from what others made.
pub(super) async fn create(
    name: &Name,
    record: impl FnOnce(&str) -> io::Result<()> + Send + 'static,
) -> io::Result<Netns> {
    let path = path_of(name);
    abroad(move || {
        make_shared_dir()?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        record(&identity()?)?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o000)
            .open(&path)?;
        let bound = mount(
            Some(THREAD_NETNS),
            &path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        );
        if let Err(error) = bound {
            fs::remove_file(&path)?;
            return Err(error.into());
        }
        Netns::current()
    })
    .await
}

/// Takes `name` away, as `ip netns del` does: the namespace itself lives on while processes or
/// open files hold it. Gone already: nothing to do.
pub(super) fn remove(name: &Name) -> io::Result<()> {
    let path = path_of(name);
    match umount2(&path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // EINVAL: no mount, only the file of a half-made namespace.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes sure of [`NETNS_DIR`].
pub(super) fn make_dir() -> io::Result<&'static Path> {
    let dir = Path::new(NETNS_DIR);
    match fs::create_dir(dir) {
        // As iproute2 makes it, whatever this process's umask.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o755))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(dir)
}

/// Makes sure of [`NETNS_DIR`] as a shared mount, so that namespaces named here show in other mount
/// namespaces.
fn make_shared_dir() -> io::Result<()> {
    let dir = make_dir()?;
    let share = || {
        mount(
            None::<&str>,
            dir,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    match share() {
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            let _lock = lock_dir(dir)?;
            // Somebody else may have been faster.
            if share().is_ok() {
                return Ok(());
            }
            mount(
                Some(dir),
                dir,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )?;
            Ok(share()?)
        }
        shared => Ok(shared?),
    }
}

/// Takes the lock that iproute2 takes while it makes the folder a mount point, which keeps two from
/// doing so. `None`: somebody holds it, which any user can, for longer than that takes.
fn lock_dir(dir: &Path) -> io::Result<Option<Flock<File>>> {
    let deadline = Instant::now() + LOCK_WAIT;
    let mut file = File::open(dir)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) if Instant::now() >= deadline => return Ok(None),
            Err((unlocked, Errno::EWOULDBLOCK)) => file = unlocked,
            Err((_, errno)) => return Err(errno.into()),
        }
        thread::sleep(LOCK_RETRY);
    }
}
