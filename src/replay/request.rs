//! What is kept of a request while it is on its way, so that it can be sent a second time.
//!
//! This runs on every request, and its result is thrown away for almost all of them. So it keeps
//! a lean list of the headers and leaves it to the rare replay to build a map of them.

use std::fmt;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::ReplayBody;

/// A request to be sent again, if need be.
pub struct KeptRequest<K> {
    method: Method,
    uri: Uri,
    version: Version,
    /// In the map's order, several values of a name in their own.
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: Option<Extensions>,
    body: K,
}

impl<K> KeptRequest<K> {
    /// Keeps `request`, with at most `limit` bytes of its body copied. To be called before
    /// anything is added to it: the replay gets its own `Authorization`.
    ///
    /// The request stays where it is, with its own header map, which has room to spare. `None`,
    /// and nothing cloned: its body cannot be sent again.
    pub(crate) fn keep<B: ReplayBody<Kept = K>>(
        request: &mut Request<B>,
        limit: usize,
    ) -> Option<Self> {
        let body = request.body_mut().keep(limit)?;
        let mut headers = Vec::with_capacity(request.headers().len());
        headers.extend(request.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
        Some(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers,
            extensions: (!request.extensions().is_empty()).then(|| request.extensions().clone()),
            body,
        })
    }

    /// The request once more. `None`: its body cannot be had, or not yet, because the first one is
    /// still being read. So ask before the response in hand is given up.
    pub(crate) fn rebuild<B: ReplayBody<Kept = K>>(self) -> Option<Request<B>> {
        let mut request = Request::new(B::restore(self.body)?);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        // One more, for the token.
        let mut headers = HeaderMap::try_with_capacity(self.headers.len() + 1).ok()?;
        for (name, value) in self.headers {
            headers.try_append(name, value).ok()?;
        }
        *request.headers_mut() = headers;
        if let Some(extensions) = self.extensions {
            *request.extensions_mut() = extensions;
        }
        Some(request)
    }
}

/// Its headers may be secret.
impl<K> fmt::Debug for KeptRequest<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptRequest").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{Full, combinators::UnsyncBoxBody};

    use super::*;

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
        // What the layer does to the first one is not in the second.
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
