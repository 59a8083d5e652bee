//! [`Head`]: the head of a request, kept as bytes.
//!
//! A head is kept for each request and thrown away for almost all of them. Copying its bytes into
//! one buffer costs less than sharing them: the values of most requests are made for the request,
//! and the first clone of a `HeaderValue` or a `Uri` that is not shared yet costs an allocation, and
//! each use after it atomic operations, in the inner service's own drop too. A head is parsed again
//! only for a replay.
//!
//! Two kinds of values are shared all the same: those that are marked sensitive, so that no second
//! copy of a secret lies in memory, and those that are longer than [`LONGEST_COPY`].

use bytes::{Buf, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    uri::{Authority, PathAndQuery, Scheme},
};

/// The longest header value that is copied, in bytes. Copying a value takes 8 ns, and another 8 ns
/// for each 1,000 bytes up to here, more above; sharing one takes about 40 ns.
const LONGEST_COPY: usize = 2 * 1024;

/// The length of the numbers that stand first.
const PREFIX: usize = 16;

/// In place of a value's length: the value is in [`Head::shared`].
const SHARED: u32 = u32::MAX;

/// The path of most URIs that show this one. See [`parts`].
static SLASH: PathAndQuery = PathAndQuery::from_static("/");

/// The head of a request: everything but its extensions and its body.
pub(super) struct Head {
    method: Method,
    version: Version,
    /// The values that are not copied, in the map's order.
    shared: Vec<HeaderValue>,
    /// The lengths of the URI's three parts, the number of headers, and the three parts; then the
    /// headers in the map's order, each as the lengths of its name and its value, the name, and the
    /// value. A number takes four bytes.
    packed: Vec<u8>,
}

/// The parts of a URI as text; empty where the URI has none.
type UriParts<'a> = [&'a str; 3];

impl Head {
    /// Returns how many bytes [`pack`](Self::pack) adds to its buffer. `None`: too many to be kept.
    #[inline]
    pub(super) fn packed_len<B>(request: &Request<B>) -> Option<usize> {
        packed_len(request.uri(), request.headers())
    }

    /// Keeps the head of `request`. What it copies is added to `packed`, which the head keeps;
    /// there should be room for [`packed_len`](Self::packed_len) bytes.
    #[inline]
    pub(super) fn pack<B>(request: &Request<B>, mut packed: Vec<u8>) -> Self {
        let shared = pack(request.uri(), request.headers(), &mut packed);
        Self { method: request.method().clone(), version: request.version(), shared, packed }
    }

    /// Makes the head again, as that of a request without a body. With it comes the first part of
    /// the buffer, of `len` bytes, which was there before the head was packed.
    pub(super) fn unpack(self, len: usize) -> Option<(Request<()>, Bytes)> {
        let mut packed = Bytes::from(self.packed);
        let before = take(&mut packed, len)?;
        let mut request = Request::new(());
        *request.method_mut() = self.method;
        *request.version_mut() = self.version;
        let lens = [take_len(&mut packed)?, take_len(&mut packed)?, take_len(&mut packed)?];
        let count = take_len(&mut packed)?;
        *request.uri_mut() = take_uri(&mut packed, lens)?;
        // One more, for the token.
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
    // So each single length has room in its four bytes, too.
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
        // A URI without a path, but with a fragment, has an empty one, which shows as a slash and is
        // not equal to it. A fragment alone is parsed to the same.
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
    // A URI that is an authority alone has no path; all others have one.
    if authority.is_empty() || !scheme.is_empty() {
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path).ok()?);
    }
    if !authority.is_empty() {
        parts.authority = Some(Authority::from_maybe_shared(authority).ok()?);
    }
    Uri::from_parts(parts).ok()
}
