//! Checks of the connections of clients to a Redis server, and of their rights.

use std::{collections::HashMap, net::IpAddr};

use eventbus_redis::{
    keys,
    redis::{Cmd, FromRedisValue, RedisResult, Value, cmd},
};
use serde_json::json;

use super::{
    outcome::{CheckError, Outcome},
    redis_store_target::RedisStoreTarget,
    redis_target::{RedisTarget, is_forbidden},
    subjects::Subjects,
};

pub(crate) async fn check_tls(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, config) = (on.redis()?, on.config);
    let client: String = target.query(cmd("CLIENT").arg("INFO")).await?;
    let address = |name: &str| client.split_whitespace().find_map(|field| field.strip_prefix(name)).unwrap_or_default();
    let (from, to) = (address("addr="), address("laddr="));
    let is_untrusted = |address: &str| {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        // a socket has no address
        let host: Option<IpAddr> = host.parse().ok();
        host.is_some_and(|host| !config.is_trusted(host))
    };
    let mut outcome = Outcome::healthy();
    if !is_untrusted(from) && !is_untrusted(to) {
        return Ok(outcome);
    }
    let Some(tls_port) = target.setting("tls-port", &mut outcome).await? else { return Ok(outcome) };
    let port = to.rsplit_once(':').map_or("", |(_, port)| port);
    if tls_port == "0" || tls_port != port {
        outcome.row(json!({ "client": from, "server": to }));
    }
    Ok(outcome)
}

pub(crate) async fn check_exposed(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    let mut outcome = Outcome::healthy();
    let protected = target.setting("protected-mode", &mut outcome).await?;
    let bind = target.setting("bind", &mut outcome).await?;
    let (Some(protected), Some(bind)) = (protected, bind) else { return Ok(outcome) };
    let is_loopback = |address: &str| {
        let address = address.trim_start_matches('-');
        address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    if protected == "yes" || bind.split_whitespace().all(is_loopback) {
        return Ok(outcome);
    }
    let user = user(target, "default").await?;
    let flags: Vec<String> = field(&user, "flags");
    if flags.iter().any(|flag| flag == "on") && flags.iter().any(|flag| flag == "nopass") {
        outcome.row(json!({ "bind": bind }));
    }
    Ok(outcome)
}

async fn user(target: &RedisTarget, name: &str) -> RedisResult<HashMap<String, Value>> {
    target.try_query(cmd("ACL").arg("GETUSER").arg(name)).await
}

fn field<T: FromRedisValue + Default>(fields: &HashMap<String, Value>, name: &str) -> T {
    fields.get(name).and_then(|value| T::from_redis_value(value.clone()).ok()).unwrap_or_default()
}

/// The commands of a bus, each on a key that does not exist, or with an argument that the command refuses: the server
/// checks the rights first, and changes no key. `HSET` has a field without its value, and `UNWATCH` is the command of
/// transactions that has no effect.
const PROBES: &str = "\
    XADD $S NOMKSTREAM * field value; XREADGROUP GROUP doctor doctor COUNT 1 STREAMS $S >; XACK $S doctor 0-1; \
    XCLAIM $S doctor doctor 0 0-1; XAUTOCLAIM $S doctor doctor 0 0-0; XPENDING $S doctor; XRANGE $S - + COUNT 1; \
    XGROUP CREATE $S doctor $; XINFO STREAM $S; XTRIM $S MAXLEN 0; XDEL $S 0-1; HGETALL $H; HSET $H field value field; \
    HDEL $H field; EXISTS $H; DEL $H; TIME; EVAL return 0; SCRIPT EXISTS doctor; UNWATCH";

/// Returns a command of [`PROBES`].
fn probe(text: &str, (stream, hash): (&str, &str)) -> Cmd {
    let mut words = text.split(' ');
    let mut command = cmd(words.next().unwrap_or_default());
    for word in words {
        command.arg(match word {
            "$S" => stream,
            "$H" => hash,
            word => word,
        });
    }
    command
}

pub(crate) async fn check_missing_rights(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let (target, mut missing, mut first) = (on.bus()?, Vec::new(), None);
    let stream = format!("{}:doctor", target.stream());
    let hash = keys::relay(&stream);
    for text in PROBES.split("; ") {
        match target.redis().try_query::<Value>(&probe(text, (&stream, &hash))).await {
            Err(error) if is_forbidden(&error) => {
                missing.push(text.split(' ').next().unwrap_or_default());
                first.get_or_insert_with(|| error.detail().unwrap_or_default().to_owned());
            }
            Err(error) if error.is_unrecoverable_error() || error.is_io_error() => return Err(error.into()),
            // any other error comes after the check of rights
            _ => {}
        }
    }
    let Some(detail) = first else { return Ok(Outcome::healthy()) };
    let user = user_name(target.redis()).await?;
    Ok(Outcome::of_row(json!({
        "_list": missing.join(", "), "_detail": detail, "_user": user, "_prefix": target.prefix(), "_open": "{",
        "missing": missing,
    })))
}

/// The rights of a store, in the order of the line in its README.
const STORE_RIGHTS: &str = "+evalsha +script|load +xadd +xdel +xinfo|stream +xlen +xrange +xrevrange +xsetid +hdel \
    +hexists +hget +hgetall +hincrby +hlen +hmget +hset +get +set +zadd +zcard +zrangebylex +zrangebyscore +zrem +zscan \
    +zscore +del +exists +scan +type +unlink +time +config|get +info";

/// The rights of these that only the check of durability needs; a store works without them.
const DURABILITY_RIGHTS: [&str; 2] = ["config|get", "info"];

/// Returns 1 if the user may run a command with arguments, nil if not. It does not run the command: no argument keeps
/// `SADD` from adding a key. If the server has renamed or removed a command, the user does not lack a right.
const MAY_RUN: &str = "
    local may_run = redis.acl_check_cmd or error('the server does not show which commands a user may run')
    local is_known, is_allowed = pcall(may_run, unpack(ARGV))
    return not is_known or is_allowed";

pub(crate) async fn check_missing_store_rights(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis_store()?;
    let (redis, mut outcome, mut missing) = (target.redis(), Outcome::healthy(), Vec::new());
    // no script has this hash: a refusal comes before the server looks for one
    let unknown = redis.try_query::<Value>(cmd("EVALSHA").arg("doctor").arg(0)).await;
    if unknown.is_err_and(|error| is_forbidden(&error)) {
        missing.push("evalsha");
    }
    let script = unless_forbidden(redis.try_query::<String>(cmd("SCRIPT").arg("LOAD").arg(MAY_RUN)).await)?;
    if script.is_none() {
        missing.push("script|load");
    }
    match script.filter(|_| missing.is_empty()) {
        Some(script) => missing = missing_commands(target, &script).await?,
        None => outcome.not_checked("a user that may run no script does not see which other rights it lacks"),
    }
    if missing.is_empty() {
        return Ok(outcome);
    }
    let keys = match target.prefix() {
        "" => "*".to_owned(),
        prefix => format!("{prefix}:*"),
    };
    let commands: Vec<_> = missing.iter().map(|right| right.to_uppercase().replace('|', " ")).collect();
    let is_durability = missing.iter().all(|right| DURABILITY_RIGHTS.contains(right));
    outcome.row(json!({
        "_is_durability": is_durability, "_is_other": !is_durability, "_list": commands.join(", "), "_keys": keys,
        "_user": user_name(redis).await?, "_rights": STORE_RIGHTS, "missing": commands,
    }));
    Ok(outcome)
}

/// Returns the [`STORE_RIGHTS`] that the user lacks on the keys of a store; `script` is the hash of [`MAY_RUN`].
async fn missing_commands(target: &RedisStoreTarget, script: &str) -> RedisResult<Vec<&'static str>> {
    let key = format!("{}:doctor", target.keys().meta());
    let mut missing = Vec::new();
    for right in STORE_RIGHTS.split_whitespace().map(|rule| rule.trim_start_matches('+')) {
        let mut may_run = cmd("EVALSHA");
        // the second key is for `COPY` and `RENAME`
        may_run.arg((script, 0)).arg(right.split('|').collect::<Vec<_>>()).arg((&key, &key));
        if !target.redis().try_query::<bool>(&may_run).await? {
            missing.push(right);
        }
    }
    Ok(missing)
}

/// Returns `None` for the reply to a command that the user may not run.
fn unless_forbidden<T>(reply: RedisResult<T>) -> RedisResult<Option<T>> {
    match reply {
        Err(error) if is_forbidden(&error) => Ok(None),
        reply => reply.map(Some),
    }
}

/// Returns the user of the connection; `…` if it may not ask for its name.
async fn user_name(target: &RedisTarget) -> RedisResult<String> {
    let client = target.try_query::<String>(cmd("CLIENT").arg("INFO")).await;
    let client = unless_forbidden(client)?.unwrap_or_default();
    let name = client.split_whitespace().find_map(|field| field.strip_prefix("user="));
    Ok(name.unwrap_or("…").to_owned())
}

pub(crate) async fn check_excess_rights(on: &Subjects<'_>) -> Result<Outcome, CheckError> {
    let target = on.redis()?;
    // a user that may not ask is limited
    let name = unless_forbidden(target.try_query::<String>(cmd("ACL").arg("WHOAMI")).await)?;
    let Some(name) = name else { return Ok(Outcome::healthy()) };
    let Some(user) = unless_forbidden(user(target, &name).await)? else { return Ok(Outcome::healthy()) };
    let commands: String = field(&user, "commands");
    if !commands.split_whitespace().any(|rule| rule == "+@all") {
        return Ok(Outcome::healthy());
    }
    Ok(Outcome::of_row(json!({ "user": name, "commands": commands })))
}
