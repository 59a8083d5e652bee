//! The token endpoint.

#[cfg(feature = "rustls")]
mod rustls;
mod transport;

#[cfg(feature = "rustls")]
pub use self::rustls::RustlsTransport;
pub use self::transport::{Transport, TransportRequestBody, TransportResponseBody};
