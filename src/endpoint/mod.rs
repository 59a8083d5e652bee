//! The token endpoint.

mod transport;

pub use self::transport::{Transport, TransportRequestBody, TransportResponseBody};
