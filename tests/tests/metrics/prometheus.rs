//! Prometheus and its tool, as processes.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// How often it scrapes, and evaluates its rules.
pub(crate) const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);

/// A server that scrapes one address.
pub(crate) struct Prometheus {
    process: Child,
    url: String,
}

impl Prometheus {
    /// Starts it with its data in a folder that is made anew.
    pub(crate) fn start(folder: &Path, target: &str, rules: &Path) -> Self {
        drop(fs::remove_dir_all(folder));
        fs::create_dir_all(folder).unwrap();
        let interval = SCRAPE_INTERVAL.as_secs();
        let config = format!(
            "global: {{ scrape_interval: {interval}s, evaluation_interval: {interval}s }}\n\
             rule_files: [{}]\n\
             scrape_configs: [{{ job_name: shop, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
            rules.display()
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let address = format!("127.0.0.1:{}", eventbus_test::internal::closed_port());
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.expect("`prometheus` is installed: apt-get install prometheus");
        Self { process, url: format!("http://{address}") }
    }

    /// Returns the result of a query, a line for each series; an error as long as it does not listen.
    pub(crate) fn query(&self, query: &str) -> Result<String, String> {
        promtool(&["query", "instant", &self.url, query], "").map(|result| result.trim().to_owned())
    }

    /// Returns `true` if a query has a result that is a number; `false` also as long as it does not listen.
    pub(crate) fn has_number(&self, query: &str) -> bool {
        let result = self.query(query).unwrap_or_default();
        result.lines().any(|line| line.rsplit_once("=> ").is_some_and(|(_, value)| !value.starts_with("NaN")))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Runs `promtool` with a text as its input; returns its output, or its complaint.
pub(crate) fn promtool(arguments: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("`promtool` is installed: apt-get install prometheus");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let [said, complaint] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    if output.status.success() && complaint.is_empty() { Ok(said) } else { Err(format!("{said}{complaint}")) }
}
