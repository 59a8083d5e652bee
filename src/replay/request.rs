//! [`KeptRequest`]: the data kept of a request while it is in flight, so that it can be sent again.

use std::fmt;

use http::{Extensions, Request};

use super::{ReplayBody, head::Head};

/// A kept request that can be sent again.
pub struct KeptRequest<K> {
    head: Head,
    extensions: Extensions,
    body: KeptBody<K>,
}

enum KeptBody<K> {
    /// The length of the body, which is stored at the start of the head's buffer.
    Packed(usize),
    Kept(K),
}

impl<K> KeptRequest<K> {
    /// Keeps `request`, copying at most `limit` bytes of its body. Called before the layer adds its
    /// header, since the replay gets an `Authorization` header of its own.
    ///
    /// The request keeps its header map, which has spare capacity. Returns `None`, without cloning
    /// anything, if the request cannot be sent again.
    pub(crate) fn keep<B: ReplayBody<Kept = K>>(
        request: &mut Request<B>,
        limit: usize,
    ) -> Option<Self> {
        let len = Head::packed_len(request)?;
        let mut packed = Vec::new();
        let body = if request.body_mut().pack(limit, &mut packed, len) {
            KeptBody::Packed(packed.len())
        } else {
            let kept = request.body_mut().keep(limit)?;
            packed.reserve_exact(len);
            KeptBody::Kept(kept)
        };
        let extensions = request.extensions();
        let extensions = if extensions.is_empty() { Extensions::new() } else { extensions.clone() };
        Some(Self { head: Head::pack(request, packed), extensions, body })
    }

    /// Rebuilds the request. Returns `None` if its body is not available, or not yet, because the
    /// original is still being read. For this reason it is called before the response is discarded.
    pub(crate) fn rebuild<B: ReplayBody<Kept = K>>(self) -> Option<Request<B>> {
        let (head, body) = match self.body {
            KeptBody::Packed(len) => {
                let (head, bytes) = self.head.unpack(len)?;
                (head, B::unpack(bytes)?)
            }
            KeptBody::Kept(kept) => (self.head.unpack(0)?.0, B::restore(kept)?),
        };
        let mut request = head.map(|()| body);
        *request.extensions_mut() = self.extensions;
        Some(request)
    }
}

/// Shows no headers, which may be secret.
impl<K> fmt::Debug for KeptRequest<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptRequest").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};
    use http_body_util::{Full, combinators::UnsyncBoxBody};

    use super::*;
    use crate::replay::LONGEST_COPY;

    fn request() -> Request<Full<Bytes>> {
        let mut secret = HeaderValue::from_static("s3cr3t");
        secret.set_sensitive(true);
        Request::builder()
            .method("PATCH")
            .uri("https://user@api.example.com/v1?q=1")
            .version(Version::HTTP_2)
            .header("x-one", "1")
            .header("x-many", "a")
            .header("x-key", secret)
            .header("x-many", "b")
            .header("x-many", "a")
            .extension("an extension")
            .body(Full::new(Bytes::from_static(b"hello")))
            .unwrap()
    }

    #[test]
    fn a_rebuilt_request_is_the_one_that_was_kept() {
        let mut first = request();
        let kept = KeptRequest::keep(&mut first, 64).unwrap();
        // Changes to the original do not affect the replay.
        first.headers_mut().insert("authorization", HeaderValue::from_static("Bearer old"));
        let again: Request<Full<Bytes>> = kept.rebuild().unwrap();

        let expected = request();
        assert_eq!(again.method(), expected.method());
        assert_eq!(again.uri(), expected.uri());
        assert_eq!(again.version(), expected.version());
        assert_eq!(again.extensions().get::<&str>(), Some(&"an extension"));
        assert_eq!(again.headers(), expected.headers());
        let order = |headers: &HeaderMap| -> Vec<_> {
            let flat = headers.iter();
            flat.map(|(n, v)| (n.clone(), v.clone(), v.is_sensitive())).collect()
        };
        assert_eq!(order(again.headers()), order(expected.headers()));
        assert!(again.headers()["x-key"].is_sensitive());
        let many: Vec<_> = again.headers().get_all("x-many").iter().collect();
        assert_eq!(many, ["a", "b", "a"]);
    }

    /// A generator of pseudorandom numbers below a bound.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) as usize % bound
        }

        fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
            of[self.below(of.len())]
        }
    }

    fn a_uri(random: &mut Random) -> Uri {
        let path =
            random.pick(&["/", "", "/a/b", "/a%20b/\u{e9}", "/a?x=1&y", "?q", "/?", "#f", "/a#f"]);
        let authority = random.pick(&[
            "api.example.com",
            "API.Example.com:8443",
            "user:pa%3ass@example.com",
            "[::1]:80",
            "localhost",
        ]);
        let scheme = random.pick(&["http", "https", "HTTPS", "ws", "Custom+1"]);
        let text = match random.below(5) {
            0 => String::from("*"),
            1 => String::from(authority),
            2 if path.starts_with('/') => String::from(path),
            _ => format!("{scheme}://{authority}{path}"),
        };
        text.parse().unwrap()
    }

    fn a_request(random: &mut Random) -> Request<Full<Bytes>> {
        let body = match random.below(4) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"static"),
            2 => Bytes::from(vec![b'u'; random.below(10_000)]),
            _ => Bytes::from(vec![b's'; 100 + random.below(100)]).slice(7..),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = random
            .pick(&["GET", "POST", "PURGE", "get", "A-METHOD-LONGER-THAN-ALL-OTHERS"])
            .parse()
            .unwrap();
        *request.uri_mut() = a_uri(random);
        *request.version_mut() = *random.pick(&[
            &Version::HTTP_09,
            &Version::HTTP_10,
            &Version::HTTP_11,
            &Version::HTTP_2,
            &Version::HTTP_3,
        ]);
        for _ in 0..random.below(12) {
            let name = random.pick(&[
                "accept",
                "cookie",
                "set-cookie",
                "x-one",
                "x-2",
                "x_3",
                "te",
                "authorization",
                "a-name-of-more-than-sixty-four-bytes-which-http-takes-another-way-to-parse",
            ]);
            let len = *random.pick(&[&0, &1, &20, &2_048, &2_049, &5_000]);
            // All bytes that a value may contain.
            let bytes = (0..len).map(|_| match 32 + random.below(224) as u8 {
                127 => b'\t',
                byte => byte,
            });
            let mut value = HeaderValue::from_bytes(&bytes.collect::<Vec<u8>>()).unwrap();
            value.set_sensitive(random.below(4) == 0);
            let name = HeaderName::from_static(name);
            match random.below(8) {
                0 => drop(request.headers_mut().insert(name, value)),
                1 => drop(request.headers_mut().remove(name)),
                _ => drop(request.headers_mut().append(name, value)),
            }
        }
        if random.below(3) == 0 {
            request.extensions_mut().insert("an extension");
        }
        request
    }

    /// Returns everything observable about a request.
    fn facts(request: &Request<Full<Bytes>>) -> impl PartialEq + fmt::Debug + use<> {
        let uri = request.uri();
        let headers = request.headers().iter();
        (
            (
                request.method().clone(),
                request.version(),
                request.extensions().get::<&str>().copied(),
            ),
            (
                uri.to_string(),
                uri.scheme().cloned(),
                uri.authority().map(|a| a.as_str().to_owned()),
            ),
            (uri.path_and_query().cloned(), uri.clone().into_parts().path_and_query),
            headers.map(|(n, v)| (n.clone(), v.clone(), v.is_sensitive())).collect::<Vec<_>>(),
            request.body().clone().into_inner().map(Vec::from),
        )
    }

    #[test]
    fn every_request_is_rebuilt_as_it_was() {
        let mut random = Random(1);
        for round in 0..4_000 {
            let mut first = a_request(&mut random);
            let expected = facts(&first);
            let kept = KeptRequest::keep(&mut first, 64).unwrap();
            assert!(facts(&first) == expected, "{round}: the first one is as it was");
            first.headers_mut().clear();
            let again: Request<Full<Bytes>> = kept.rebuild().unwrap();
            let headers = again.headers();
            assert!(headers.capacity() > headers.len(), "{round}: room for the token");
            assert_eq!(facts(&again), expected, "{round}");
        }
    }

    /// Fails if a secret is copied in memory, or if megabytes are copied for every request.
    #[test]
    fn sensitive_and_long_values_are_shared() {
        let value = |len| HeaderValue::from_maybe_shared(Bytes::from(vec![b'v'; len])).unwrap();
        let mut first = Request::new(());
        first.headers_mut().insert("x-short", value(10));
        first.headers_mut().insert("x-long", value(1 << 20));
        let mut secret = value(10);
        secret.set_sensitive(true);
        first.headers_mut().insert("x-secret", secret);
        let kept = KeptRequest::keep(&mut first, 0).unwrap();
        let again: Request<()> = kept.rebuild().unwrap();
        for (name, is_shared) in [("x-short", false), ("x-long", true), ("x-secret", true)] {
            let at = |request: &Request<()>| request.headers()[name].as_bytes().as_ptr();
            assert_eq!(at(&first) == at(&again), is_shared, "{name}");
        }
    }

    /// Fails if each value of a request costs an allocation and atomic operations, instead of one
    /// shared buffer.
    #[test]
    fn a_request_made_of_fresh_parts_is_not_shared() {
        let body = Bytes::from(vec![b'b'; 100]);
        let mut first = Request::new(body);
        *first.uri_mut() = "/a/path".parse().unwrap();
        let kept = KeptRequest::keep(&mut first, 100).unwrap();
        assert!(first.body().is_unique());
        let again: Request<Bytes> = kept.rebuild().unwrap();
        assert_eq!(again.body(), first.body());

        for (len, limit) in [(LONGEST_COPY + 1, usize::MAX), (100, 99)] {
            let mut first = Request::new(Bytes::from(vec![b'b'; len]));
            let kept = KeptRequest::keep(&mut first, limit).unwrap();
            assert!(!first.body().is_unique(), "{len} bytes, at most {limit}");
            drop(kept);
            assert!(first.body().is_unique());
        }
    }

    #[test]
    fn the_first_request_keeps_its_own_map_and_extensions() {
        let mut first = request();
        let map = first.headers().get("x-one").map(std::ptr::from_ref);
        let _kept = KeptRequest::keep(&mut first, 64).unwrap();
        assert_eq!(first.headers().get("x-one").map(std::ptr::from_ref), map);
        assert!(first.extensions().get::<&str>().is_some());
    }

    #[test]
    fn there_is_no_request_without_its_body() {
        let mut first = Request::new(String::from("too long"));
        assert!(KeptRequest::keep(&mut first, 3).is_none());
        assert_eq!(first.body(), "too long");

        type Boxed = UnsyncBoxBody<Bytes, std::convert::Infallible>;
        let mut first: Request<Boxed> = request().map(UnsyncBoxBody::new);
        let kept = KeptRequest::keep(&mut first, 64).unwrap();
        assert!(kept.rebuild::<Boxed>().is_none(), "the first one is still on its way");
        drop(first);
    }

    #[test]
    fn a_bare_request_is_rebuilt_too() {
        let kept = KeptRequest::keep(&mut Request::new(()), 0).unwrap();
        let again: Request<()> = kept.rebuild().unwrap();
        assert!(again.headers().is_empty() && again.extensions().is_empty());
    }
}
