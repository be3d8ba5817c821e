//! Chromium without a window, driven by its own protocol over a pair of pipes.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The time that the browser has for an answer, also on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A browser with one page.
pub(crate) struct Chromium {
    child: Child,
    input: ChildStdin,
    messages: mpsc::Receiver<Value>,
    next_id: u64,
    session: Option<String>,
    events: VecDeque<Value>,
    /// What the page has logged: violations of its policy, and errors of its script.
    pub(crate) errors: Vec<String>,
    _profile: TempDir,
}

impl Chromium {
    /// Starts it with a profile of its own.
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        // the browser reads commands from descriptor 3 and answers on 4, each of which ends with a zero byte
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#, "sh"])
            .arg(eventbus_test::internal::chromium());
        command.args(["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-dev-shm-usage"]);
        command.args(["--disable-gpu", "--hide-scrollbars", "--disable-background-networking", "--no-sandbox"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, messages) = mpsc::channel();
        std::thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                if send.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        let (events, errors) = Default::default();
        let mut browser = Self { child, input, messages, next_id: 0, session: None, events, errors, _profile: profile };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", &attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        browser
    }

    /// Calls a method of the protocol, and returns its result.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        let mut message = json!({ "id": id, "method": method });
        message["params"] = parameters.clone();
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let message = self.receive(deadline);
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.take_event(message);
        }
    }

    #[track_caller]
    fn receive(&self, deadline: Instant) -> Value {
        let left = deadline.saturating_duration_since(Instant::now());
        self.messages.recv_timeout(left).expect("the browser answers")
    }

    fn take_event(&mut self, message: Value) {
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                self.errors.push(parameters["entry"]["text"].to_string());
            }
            Some("Runtime.exceptionThrown") => self.errors.push(parameters["exceptionDetails"].to_string()),
            Some(_) => self.events.push_back(message),
            None => {}
        }
    }

    /// Waits for an event of the protocol.
    #[track_caller]
    fn wait_for(&mut self, event: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            while let Some(message) = self.events.pop_front() {
                if message["method"] == event {
                    return;
                }
            }
            let message = self.receive(deadline);
            self.take_event(message);
        }
    }

    /// Opens a page, and waits until it is loaded.
    #[track_caller]
    pub(crate) fn open(&mut self, url: &str) {
        self.events.clear();
        let opened = self.call("Page.navigate", &json!({ "url": url }));
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
        self.wait_for("Page.loadEventFired");
    }

    /// Presses a key, and waits until the page that this opens is loaded.
    #[track_caller]
    pub(crate) fn press_and_load(&mut self, key: &str) {
        self.events.clear();
        self.press(key);
        self.wait_for("Page.loadEventFired");
    }

    /// Presses `Tab` or `Enter`.
    #[track_caller]
    pub(crate) fn press(&mut self, key: &str) {
        let (number, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            key => panic!("{key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let event = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": number, "nativeVirtualKeyCode": number,
                "text": text,
            });
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Types a text into the field that has the focus.
    #[track_caller]
    pub(crate) fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
    }

    /// Returns the value of an expression on the page.
    #[track_caller]
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let result = self.call(
            "Runtime.evaluate",
            &json!({ "expression": expression, "returnByValue": true, "awaitPromise": true }),
        );
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Returns the text of an expression on the page.
    #[track_caller]
    pub(crate) fn text(&mut self, expression: &str) -> String {
        self.evaluate(expression).as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression on the page is true.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, expression: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while self.evaluate(expression) != true {
            assert!(Instant::now() < deadline, "{expression}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sets the size of the screen, and whether it is one of a phone.
    pub(crate) fn set_screen(&mut self, width: u32, height: u32, is_phone: bool) {
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone });
        self.call("Emulation.setDeviceMetricsOverride", &screen);
    }

    /// Sets whether the operator wants dark pages.
    pub(crate) fn set_dark(&mut self, is_dark: bool) {
        let value = if is_dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.call("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// Writes a picture of the whole page.
    pub(crate) fn take_picture(&mut self, file: &Path) {
        let picture = self.call("Page.captureScreenshot", &json!({ "format": "png", "captureBeyondViewport": true }));
        let bytes = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // ends its processes as well; the answer does not matter
        let _ = self.input.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
