//! [`SecretFile`]: a secret in a file that another process replaces.

use std::{
    fmt,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::{ClientCredentials, CredentialsProvider, secret_problem};
use crate::{error::BoxError, token::BoxFuture};

/// The longest secret that is read from a file, in bytes.
const MAX_LEN: usize = 64 * 1024;

/// Credentials whose secret is stored in a file that is read again for every attempt.
///
/// The file contains the secret in UTF-8, at most 64 KiB, without control characters. One trailing
/// newline (`\n` or `\r\n`) is ignored. Replace the file atomically: write a new file next to it
/// and rename it, as Kubernetes does for mounted secrets.
///
/// Changes are detected by modification time and length. While a refusal of the credentials is
/// remembered, each call starts a check of the file on the blocking pool of its runtime, at most
/// one at a time, and uses the result of the previous check. After a change, therefore, the first
/// call triggers the check, and the next one requests a token with the new secret. Clones share the
/// result.
///
/// A Tokio runtime is required, since the file is read on its blocking pool. The file's permissions
/// are not checked.
#[derive(Clone)]
pub struct SecretFile {
    id: Box<str>,
    file: Arc<Watched>,
}

/// The file and its last observed state.
struct Watched {
    path: PathBuf,
    /// The number of changes observed so far.
    version: AtomicU64,
    /// `None` if the file has not been checked yet.
    seen: Mutex<Option<Traits>>,
    /// Whether a check is in progress.
    looking: AtomicBool,
}

/// The traits that distinguish one version of the file from the next. `None` if the file does not
/// exist.
type Traits = Option<(Option<SystemTime>, u64)>;

impl Watched {
    /// Checks whether the file has changed. Blocks the thread.
    fn look(&self) {
        let metadata = fs::metadata(&self.path);
        let traits = metadata.map(|meta| (meta.modified().ok(), meta.len())).ok();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.replace(traits).is_some_and(|former| former != traits) {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Guard of the check in progress. Dropping it ends the check, also if the runtime shuts down
/// first.
struct Look(Arc<Watched>);

impl Look {
    /// Begins a check. Returns `None` if one is in progress.
    fn begin(file: &Arc<Watched>) -> Option<Self> {
        (!file.looking.swap(true, Ordering::Acquire)).then(|| Self(Arc::clone(file)))
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.0.looking.store(false, Ordering::Release);
    }
}

impl SecretFile {
    /// Creates the credentials of the client `id`, with the secret in the file at `path`. The file
    /// is not read yet.
    pub fn new(id: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        let file = Watched {
            path: path.into(),
            version: AtomicU64::new(0),
            seen: Mutex::new(None),
            looking: AtomicBool::new(false),
        };
        Self { id: id.into().into_boxed_str(), file: Arc::new(file) }
    }
}

impl CredentialsProvider for SecretFile {
    fn credentials(&self) -> BoxFuture<'_, Result<ClientCredentials, BoxError>> {
        Box::pin(async move {
            let file = Arc::clone(&self.file);
            // `spawn_blocking` panics without a runtime; this returns an error instead.
            let runtime = Handle::try_current()?;
            let reading = runtime.spawn_blocking(move || {
                // Checked before reading: a change in between is then found by the next check, and
                // none is missed.
                file.look();
                read(&file.path)
            });
            let mut secret = reading.await??;
            Ok(ClientCredentials::new(&*self.id, std::mem::take(&mut *secret)))
        })
    }

    /// Returns the version found by the last check. Does not block; without a runtime, checks
    /// immediately.
    fn version(&self) -> u64 {
        if let Some(look) = Look::begin(&self.file) {
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(move || look.0.look())),
                Err(_) => look.0.look(),
            }
        }
        self.file.version.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFile").field("id", &self.id).field("path", &self.file.path).finish()
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, BoxError> {
    let fail = |problem: &str| format!("the client secret file {} {problem}", path.display());
    let unreadable = |error| fail(&format!("cannot be read: {error}"));

    // Opening a pipe would block until another process writes to it, and its content could be read
    // only once.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(fail("is not a regular file").into());
    }

    // Allocated once, since growing the buffer would leave copies of the secret behind. One extra
    // byte for a longer newline, and one to detect that the file is too long.
    let mut content = Zeroizing::new(vec![0; MAX_LEN + 2]);
    let mut file = File::open(path).map_err(unreadable)?;
    let mut len = 0;
    while let Some(room) = content.get_mut(len..).filter(|room| !room.is_empty()) {
        match file.read(room) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error).into()),
        }
    }

    let text = std::str::from_utf8(content.get(..len).unwrap_or_default());
    // If the cap splits a character, the file is too long rather than invalid UTF-8.
    let secret = match text {
        Ok(text) => {
            text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line))
        }
        Err(_) if len > MAX_LEN => return Err(fail("is longer than 64 KiB").into()),
        Err(_) => return Err(fail("is not UTF-8").into()),
    };
    if secret.len() > MAX_LEN {
        return Err(fail("is longer than 64 KiB").into());
    }
    match secret_problem(secret) {
        Some(_) if secret.ends_with(['\n', '\r']) => {
            Err(fail("has more than one newline at its end").into())
        }
        Some(problem) => Err(fail(problem).into()),
        None => Ok(Zeroizing::new(secret.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct TempFile(PathBuf);

    impl TempFile {
        fn with(content: impl AsRef<[u8]>) -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("tower-oauth2-secret-{}-{count}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::write(&path, content).unwrap();
            Self(path)
        }
    }

    impl Drop for TempFile {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    async fn secret_of(path: &Path) -> Result<String, String> {
        match SecretFile::new("me", path).credentials().await {
            Ok(credentials) => Ok(credentials.expose_secret().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn one_newline_at_the_end_is_not_part_of_the_secret() {
        for content in ["s3cr3t", "s3cr3t\n", "s3cr3t\r\n"] {
            let file = TempFile::with(content);
            assert_eq!(secret_of(&file.0).await.as_deref(), Ok("s3cr3t"), "{content:?}");
        }
        let file = TempFile::with(format!("{}\r\n", "x".repeat(MAX_LEN)));
        assert_eq!(secret_of(&file.0).await.map(|secret| secret.len()), Ok(MAX_LEN));
    }

    #[tokio::test]
    async fn a_file_that_is_no_secret_is_named_and_not_shown() {
        for (content, problem) in [
            (b"".as_slice(), "is empty"),
            (b"\n", "is empty"),
            (b"  \n", "is blank"),
            (b"\xef\xbb\xbfc4n4ry\r\n", "byte order mark"),
            (b"c4n4ry\n\n", "more than one newline"),
            (b"c4n4ry\nb", "a control character"),
            (b"c4n4ry\xff", "not UTF-8"),
            (&[b'x'; MAX_LEN + 1], "longer than 64 KiB"),
            (&[0xc3; MAX_LEN * 2], "longer than 64 KiB"),
        ] {
            let file = TempFile::with(content);
            let error = secret_of(&file.0).await.unwrap_err();
            assert!(error.contains(problem), "{error}");
            assert!(error.contains(&file.0.display().to_string()), "{error}");
            assert!(!error.contains("c4n4ry"), "{error}");
        }
        let error = secret_of(&std::env::temp_dir()).await.unwrap_err();
        assert!(error.contains("is not a regular file"), "{error}");
        let error = secret_of(Path::new("/nonexistent/secret")).await.unwrap_err();
        assert!(error.contains("/nonexistent/secret cannot be read: "), "{error}");
    }

    #[tokio::test]
    async fn a_replaced_file_is_read_again_and_changes_the_version() {
        let file = TempFile::with("one");
        let provider = SecretFile::new("me", &file.0);
        let before = provider.version();
        assert_eq!(provider.credentials().await.unwrap().expose_secret(), "one");
        assert_eq!(provider.clone().version(), before, "the first look is no change");
        fs::write(&file.0, "another").unwrap();
        assert_eq!(provider.credentials().await.unwrap().expose_secret(), "another");
        let after = provider.clone().version();
        assert_ne!(after, before);
        fs::remove_file(&file.0).unwrap();
        provider.credentials().await.unwrap_err();
        assert_ne!(provider.version(), after);
    }

    /// Fails if a runtime thread waits for a file system: a `stat` on a network share may block
    /// indefinitely.
    #[test]
    fn the_version_is_found_on_the_blocking_pool_one_look_at_a_time() {
        let file = TempFile::with("one");
        let provider = SecretFile::new("me", &file.0);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        let after = runtime.block_on(async {
            provider.credentials().await.unwrap();
            let before = provider.version();
            tokio::task::spawn_blocking(|| ()).await.unwrap();

            // The pool's only thread simulates a file system that does not respond.
            let (answer, hanging) = std::sync::mpsc::channel::<()>();
            let hangs = tokio::task::spawn_blocking(move || hanging.recv());
            fs::write(&file.0, "another").unwrap();
            for _ in 0..100 {
                assert_eq!(provider.version(), before);
            }
            assert_eq!(Arc::strong_count(&provider.file), 2, "this, and one look");
            answer.send(()).unwrap();
            hangs.await.unwrap().unwrap();
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            let after = provider.version();
            assert_ne!(after, before);
            after
        });
        drop(runtime);
        fs::write(&file.0, "and another").unwrap();
        assert_ne!(provider.version(), after, "without a runtime it looks at once");
    }

    #[test]
    fn without_a_runtime_it_is_an_error_and_no_panic() {
        let provider = SecretFile::new("me", "/nonexistent");
        let mut future = provider.credentials();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(matches!(future.as_mut().poll(&mut cx), std::task::Poll::Ready(Err(_))));
    }

    #[test]
    fn a_secret_of_the_same_length_is_another_version() {
        let file = TempFile::with("one");
        let provider = SecretFile::new("me", &file.0);
        let before = provider.version();
        fs::write(&file.0, "two").unwrap();
        let written = File::options().write(true).open(&file.0).unwrap();
        let modified = written.metadata().unwrap().modified().unwrap();
        // Some file systems have a resolution of 2 s.
        written.set_modified(modified + std::time::Duration::from_secs(2)).unwrap();
        assert_ne!(provider.version(), before);
    }
}
