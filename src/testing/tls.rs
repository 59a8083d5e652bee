//! [`TestCa`]: a throwaway certificate authority for servers on loopback.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A certificate authority for one test. A client that trusts [`pem`](Self::pem) trusts its
/// servers.
///
/// To test an untrusted certificate, create a second authority and trust only that one.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl TestCa {
    /// Generates a key and a certificate for a new authority.
    ///
    /// # Errors
    ///
    /// Returns an error if the system provides no random bytes.
    pub fn new() -> io::Result<Self> {
        let mut params = CertificateParams::default();
        // Unique names, as real authorities have; otherwise clients would confuse one with another.
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("throw-away CA {number} of a test");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Returns the authority's certificate, which the client under test must trust.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Creates a certificate for `localhost`, 127.0.0.1 and ::1, and offers HTTP/2 and HTTP/1.1 by
    /// ALPN.
    pub(crate) fn server_config(&self) -> io::Result<Arc<ServerConfig>> {
        let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
        let params = CertificateParams::new(names).map_err(io::Error::other)?;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        // Chosen explicitly, because the process may have no default provider, or one installed for
        // its client.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config.with_no_client_auth().with_single_cert(vec![certificate.into()], key)
            })
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for TestCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCa").finish_non_exhaustive()
    }
}
