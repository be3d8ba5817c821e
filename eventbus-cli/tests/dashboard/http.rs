//! Requests to the dashboard with exactly the headers that a test gives.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// By their names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A server at an address, below a path.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Host and port.
    pub(crate) address: String,
    /// The path of the overview, without a slash at its end.
    pub(crate) folder: String,
    /// The cookie of a browser that has logged in.
    pub(crate) cookie: Option<String>,
}

impl Site {
    /// Takes a URL such as `http://127.0.0.1:8090/`.
    pub(crate) fn new(url: &str) -> Self {
        let (address, folder) = url.trim_start_matches("http://").split_once('/').unwrap();
        let folder = if folder.is_empty() { String::new() } else { format!("/{folder}") };
        Self { address: address.into(), folder, cookie: None }
    }

    /// Sends a request to a path below the folder.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = format!("{method} {}{path} HTTP/1.1\r\nconnection: close\r\n", self.folder);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request.push_str(&format!("host: {}\r\n", self.address));
        }
        if let Some(cookie) = &self.cookie {
            request.push_str(&format!("cookie: other=1; {cookie}\r\n"));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" {
            request.push_str("content-type: application/x-www-form-urlencoded\r\n");
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        let mut connection = TcpStream::connect(self.address.replace("0.0.0.0", "127.0.0.1")).await.unwrap();
        connection.write_all(format!("{request}\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(':').unwrap());
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
        Answer { status, headers, body: body.to_owned() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// Sends a form as a browser does from a page of the same origin.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[("sec-fetch-site", "same-origin")], body).await
    }

    /// Logs in, and keeps the cookie.
    pub(crate) async fn log_in(&mut self, token: &str) {
        let answer = self.post("/login", &format!("token={token}")).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        self.cookie = Some(answer.header("set-cookie").split(';').next().unwrap().to_owned());
    }
}

/// Returns the texts of a page between two texts.
pub(crate) fn between<'p>(page: &'p str, before: &str, after: &str) -> Vec<&'p str> {
    page.split(before).skip(1).map(|rest| rest.split(after).next().unwrap()).collect()
}

/// Returns the path of the link with this text, without what entities escape.
#[track_caller]
pub(crate) fn link(page: &str, text: &str) -> String {
    find_link(page, text).unwrap_or_else(|| panic!("no link `{text}` in\n{page}"))
}

pub(crate) fn find_link(page: &str, text: &str) -> Option<String> {
    let before = page.split(&format!(">{text}</a>")).next().filter(|before| before.len() < page.len())?;
    let link = before.rsplit("href=\"").next()?.split('"').next()?;
    Some(format!("/{}", link.trim_start_matches("./").replace("&amp;", "&")))
}
