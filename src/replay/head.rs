//! [`Head`]: the head of a request, kept as bytes.
//!
//! A head is kept for every request and discarded for almost all of them. Copying its bytes into
//! one buffer is cheaper than sharing them: most header values are created for a single request, so
//! the first clone of such a `HeaderValue` or `Uri` allocates, and every later use costs atomic
//! operations, including the drop in the inner service. The head is parsed again only for a replay.
//!
//! Two kinds of values are shared: those marked sensitive, so that memory holds no second copy of a
//! secret, and those longer than [`LONGEST_COPY`].

use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    uri::{Authority, PathAndQuery, Scheme},
};

/// The longest header value that is copied, in bytes. Copying takes 8 ns plus 8 ns per 1,000 bytes,
/// and more above this length; sharing takes about 40 ns.
const LONGEST_COPY: usize = 2 * 1024;

/// The length of the leading numbers.
const PREFIX: usize = 16;

/// Marks a value that is stored in [`Head::shared`], instead of its length.
const SHARED: u32 = u32::MAX;

/// The path of most URIs that print a single slash. See [`parts`].
static SLASH: PathAndQuery = PathAndQuery::from_static("/");

/// The head of a request, without its extensions.
pub(super) struct Head {
    method: Method,
    version: Version,
    /// The values that are not copied, in map order.
    shared: Vec<HeaderValue>,
    /// The lengths of the three URI parts, the number of headers, and the three parts, followed by
    /// the headers in map order, each as the length of its name, the length of its value, the name,
    /// and the value. Each number takes four bytes.
    packed: Vec<u8>,
}

/// The parts of a URI as text; empty where the URI has none.
type UriParts<'a> = [&'a str; 3];

impl Head {
    /// Returns how many bytes [`pack`](Self::pack) appends to its buffer, or `None` if the head is
    /// too large to keep.
    #[inline]
    pub(super) fn packed_len<B>(request: &Request<B>) -> Option<usize> {
        packed_len(request.uri(), request.headers())
    }

    /// Keeps the head of `request`. The copied bytes are appended to `packed`, which becomes part
    /// of the head and should have room for [`packed_len`](Self::packed_len) more bytes.
    #[inline]
    pub(super) fn pack<B>(request: &Request<B>, mut packed: Vec<u8>) -> Self {
        let shared = pack(request.uri(), request.headers(), &mut packed);
        Self { method: request.method().clone(), version: request.version(), shared, packed }
    }

    /// Rebuilds the head, as a request without a body. Also returns the first `len` bytes of the
    /// buffer, which preceded the head.
    pub(super) fn unpack(self, len: usize) -> Option<(Request<()>, Bytes)> {
        let mut packed = Bytes::from(self.packed);
        let before = take(&mut packed, len)?;
        let mut request = Request::new(());
        *request.method_mut() = self.method;
        *request.version_mut() = self.version;
        let lens = [take_len(&mut packed)?, take_len(&mut packed)?, take_len(&mut packed)?];
        let count = take_len(&mut packed)?;
        *request.uri_mut() = take_uri(&mut packed, lens)?;
        // One more for the token.
        let mut headers = HeaderMap::try_with_capacity(count + 1).ok()?;
        let mut shared = self.shared.into_iter();
        for _ in 0..count {
            let name_len = take_len(&mut packed)?;
            let value_len = packed.try_get_u32_le().ok()?;
            let name = HeaderName::from_lowercase(&take(&mut packed, name_len)?).ok()?;
            let value = match value_len {
                SHARED => shared.next()?,
                len => HeaderValue::from_maybe_shared(take(&mut packed, len as usize)?).ok()?,
            };
            headers.try_append(name, value).ok()?;
        }
        *request.headers_mut() = headers;
        Some((request, before))
    }
}

fn packed_len(uri: &Uri, headers: &HeaderMap) -> Option<usize> {
    let mut len = PREFIX;
    for part in parts(uri) {
        len += part.len();
    }
    for (name, value) in headers {
        len += 8 + name.as_str().len() + if is_copied(value) { value.len() } else { 0 };
    }
    // This also bounds each single length to four bytes.
    (len < SHARED as usize).then_some(len)
}

fn pack(uri: &Uri, headers: &HeaderMap, packed: &mut Vec<u8>) -> Vec<HeaderValue> {
    let parts = parts(uri);
    let [scheme, authority, path] = parts.map(|part| part.len() as u32);
    packed.extend_from_slice(&pair(scheme, authority));
    packed.extend_from_slice(&pair(path, headers.len() as u32));
    for part in parts {
        packed.extend_from_slice(part.as_bytes());
    }
    let mut shared = Vec::new();
    for (name, value) in headers {
        let name = name.as_str().as_bytes();
        let is_copied = is_copied(value);
        let value_len = if is_copied { value.len() as u32 } else { SHARED };
        packed.extend_from_slice(&pair(name.len() as u32, value_len));
        packed.extend_from_slice(name);
        if is_copied {
            packed.extend_from_slice(value.as_bytes());
        } else {
            shared.push(value.clone());
        }
    }
    shared
}

/// Two numbers as they are packed. In one piece: two stores that are read back as one stall.
#[inline]
fn pair(first: u32, second: u32) -> [u8; 8] {
    (u64::from(first) | u64::from(second) << 32).to_le_bytes()
}

#[inline]
fn is_copied(value: &HeaderValue) -> bool {
    value.len() <= LONGEST_COPY && !value.is_sensitive()
}

fn parts(uri: &Uri) -> UriParts<'_> {
    let path = uri.path_and_query().map(|path| match path.as_str() {
        // A URI with a fragment but no path has an empty path, which prints as a slash but is not
        // equal to one. Parsing a lone fragment yields the same.
        "/" if *path != SLASH => "#",
        path => path,
    });
    [
        uri.scheme_str().unwrap_or_default(),
        uri.authority().map(Authority::as_str).unwrap_or_default(),
        path.unwrap_or_default(),
    ]
}

fn take_len(packed: &mut Bytes) -> Option<usize> {
    packed.try_get_u32_le().ok()?.try_into().ok()
}

fn take(packed: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= packed.len()).then(|| packed.split_to(len))
}

fn take_uri(packed: &mut Bytes, lens: [usize; 3]) -> Option<Uri> {
    let [scheme, authority, path] = lens;
    let (scheme, authority) = (take(packed, scheme)?, take(packed, authority)?);
    let path = take(packed, path)?;
    let mut parts = http::uri::Parts::default();
    if !scheme.is_empty() {
        parts.scheme = Some(Scheme::try_from(&scheme[..]).ok()?);
    }
    // Only a URI that is just an authority has no path.
    if authority.is_empty() || !scheme.is_empty() {
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path).ok()?);
    }
    if !authority.is_empty() {
        parts.authority = Some(Authority::from_maybe_shared(authority).ok()?);
    }
    Uri::from_parts(parts).ok()
}
