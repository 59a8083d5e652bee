//! The text in an HTML page or an XML fault, found without a parser: a server's text must not be
//! trusted with entities, external or nested ones.
//!
//! Pure. Only the first bytes are read.

/// The most bytes that are read.
const MAX_READ: usize = 16 * 1024;

/// The elements that hold text, by their local names, the best first: SOAP 1.1 and 1.2, and others.
const WORDS: [&str; 10] = [
    "faultstring",
    "error_description",
    "errorDescription",
    "ErrorMessage",
    "Message",
    "Text",
    "msg",
    "detail",
    "Description",
    "Reason",
];

const CODES: [&str; 6] = ["error", "ErrorCode", "error_code", "faultcode", "Code", "Value"];

/// A text that begins with a tag.
#[derive(Debug, PartialEq)]
pub(super) enum Markup {
    Html { title: Option<String> },
    Xml { code: Option<String>, words: Option<String> },
}

/// Returns the message in `text`, if it is markup.
pub(super) fn read(text: &str) -> Option<Markup> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    if !text.starts_with('<') {
        return None;
    }
    let end = (0..=MAX_READ.min(text.len())).rev().find(|end| text.is_char_boundary(*end))?;
    let elements = elements(text.get(..end)?);
    let named = |name: &str| {
        let is_it =
            |(own, content): &&(&str, &str)| own.eq_ignore_ascii_case(name) && !content.is_empty();
        elements.iter().find(is_it).map(|(_, content)| (*content).to_owned())
    };
    // Only elements without a namespace: SOAP has a `Body`, too.
    let is_html = |(name, _): &(&str, &str)| {
        ["html", "head", "body", "title"].iter().any(|tag| name.eq_ignore_ascii_case(tag))
    };
    let is_page = elements.iter().take(3).any(is_html);
    Some(match is_page {
        true => Markup::Html { title: named("title") },
        false => Markup::Xml {
            code: CODES.into_iter().find_map(named),
            words: WORDS.into_iter().find_map(named),
        },
    })
}

/// Returns each opening tag's name, and the text behind it up to the next tag.
fn elements(text: &str) -> Vec<(&str, &str)> {
    let mut elements: Vec<(&str, &str)> = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('<') {
        if let Some(data) = after.strip_prefix("![CDATA[") {
            let (data, behind) = data.split_once("]]>").unwrap_or((data, ""));
            // The content of the element before.
            if let Some((_, content @ "")) = elements.last_mut() {
                *content = data.trim();
            }
            rest = behind;
            continue;
        }
        let Some((tag, behind)) = after.split_once('>') else { break };
        let name = tag.split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
        // Neither a closing tag nor a declaration.
        if !name.is_empty() && !name.starts_with(['?', '!']) {
            elements.push((name, behind.split('<').next().unwrap_or_default().trim()));
        }
        rest = behind;
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_its_title_and_a_fault_its_words() {
        let html = |title: Option<&str>| Some(Markup::Html { title: title.map(Into::into) });
        let xml = |code: Option<&str>, words: Option<&str>| {
            Some(Markup::Xml { code: code.map(Into::into), words: words.map(Into::into) })
        };
        for (text, read) in [
            ("no markup", None),
            ("", None),
            ("<!DOCTYPE html><html><head><meta charset=x><title> Just a\nmoment </title>", {
                html(Some("Just a\nmoment"))
            }),
            ("\u{feff}\n<HTML><HEAD><TITLE>Denied</TITLE></HEAD><body>x", html(Some("Denied"))),
            ("<html><h1>x</h1></html>", html(None)),
            ("<html><title>unclosed", html(Some("unclosed"))),
            ("<html", xml(None, None)),
            (
                r#"<?xml version="1.0"?><soap:Envelope xmlns:soap="x"><soap:Body><soap:Fault>
                   <faultcode>soap:Client</faultcode><faultstring xml:lang="en">Bad &lt;key&gt;
                   </faultstring></soap:Fault></soap:Body></soap:Envelope>"#,
                xml(Some("soap:Client"), Some("Bad &lt;key&gt;")),
            ),
            (
                "<Error><Code>AccessDenied</Code><Message><![CDATA[No <such> key]]></Message></Error>",
                xml(Some("AccessDenied"), Some("No <such> key")),
            ),
            (
                "<OAuth><error_description>no such client</error_description><error>invalid_client\
                 </error></OAuth>",
                xml(Some("invalid_client"), Some("no such client")),
            ),
        ] {
            assert_eq!(super::read(text), read, "{text}");
        }
    }

    #[test]
    fn entities_are_not_expanded_and_long_pages_not_read() {
        let bomb =
            r#"<!DOCTYPE x [<!ENTITY a "boom"><!ENTITY b "&a;&a;">]><x><message>&b;</message></x>"#;
        let said = format!("{:?}", read(bomb));
        assert!(!said.contains("boomboom"), "{said}");
        let page = format!("<html>{}<title>late</title>", "é".repeat(MAX_READ));
        assert_eq!(read(&page), Some(Markup::Html { title: None }));
    }
}
