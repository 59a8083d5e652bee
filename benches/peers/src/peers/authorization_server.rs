//! Answers whatever it is sent over HTTP with a token. This crate's own authorization server checks
//! its clients, and does not know the grants and formats of all the peers.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use super::DAY;
use crate::common::{TOKEN_LENGTH, token};

/// Starts one that is there until the process ends. Its thread sleeps unless it is asked.
pub(super) fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.expect("a connection"));
        }
    });
    format!("http://{address}/token")
}

fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(&stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line.is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length]).expect("a body");
    let body = format!(
        r#"{{"access_token":"{}","token_type":"Bearer","expires_in":{DAY}}}"#,
        token(TOKEN_LENGTH)
    );
    write!(
        &stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("an answer");
}
