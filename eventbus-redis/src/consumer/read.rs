//! Fetching entries.
//!
//! Keep: a read that waits for entries is awaited to its end, for the server hands what it finds to this consumer and to
//! nobody else. After each connection the entries that are pending on this consumer come before any new one.
//!
//! Real time, not the given clock: the replies of Redis.

use std::{pin::pin, sync::atomic::Ordering, time::Duration};

use eventbus::port::{DueAgain, MessageId, StopSignal};
use redis::{Cmd, RedisError, RedisResult, ScriptInvocation, Value, aio::MultiplexedConnection};

use super::{Consumer, intake::Retaken, trouble::Trouble};
use crate::{
    command::{self, Reader},
    connection::{CommandError, is_lost},
    script,
};

/// How long a read waits for entries at a time. It is what a stop takes where the server does not let us wake the read,
/// and what it takes to notice that a connection is dead.
pub(super) const SLICE: Duration = Duration::from_secs(1);
/// What the server may take beyond that.
const MARGIN: Duration = Duration::from_millis(500);
/// How often is looked for entries on a connection where reads must not wait.
pub(super) const POLL: Duration = Duration::from_millis(20);
/// What begins before the first entry.
pub(super) const FIRST: &str = "-";
/// How long to leave an entry that waited to the reader of a group that was made anew.
const UNREAD: Duration = Duration::from_secs(1);
/// After how long without a reply a read is taken to wait for what is published next.
const SOON: Duration = Duration::from_millis(20);
/// How long to leave a waking command to do its work before it is sent again.
const WAKE_AGAIN: Duration = Duration::from_millis(20);

/// What a reader knows beyond one connection.
pub(super) struct Reading<'a> {
    pub(super) stop: &'a StopSignal,
    pub(super) trouble: Trouble,
    /// Whether a connection of its own was lost.
    has_lost: bool,
    /// Which of the shared connections it uses, if it has none of its own.
    link_number: Option<u64>,
    /// Whether it knows what became of the consumer that had the name before.
    knows_former: bool,
}

/// What went wrong, as the reader tells it.
pub(super) fn sent(error: CommandError) -> RedisError {
    match error {
        CommandError::Sent(error) => error,
        CommandError::NotSent(text) => std::io::Error::other(text).into(),
    }
}

/// A connection, and what wakes it.
pub(super) struct Connected {
    pub(super) connection: MultiplexedConnection,
    client: Option<i64>,
}

impl Consumer {
    /// Fetches entries while there is room for them, until it is to stop.
    pub(super) async fn read(&self, stop: &StopSignal) {
        let mut reading = self.reading(stop);
        while !stop.is_stopped() {
            let ended = self.session(&mut reading).await;
            self.hand.more_follows(false);
            if let Err(error) = ended {
                self.interrupted(&mut reading, &error).await;
            }
        }
    }

    pub(super) fn reading<'a>(&self, stop: &'a StopSignal) -> Reading<'a> {
        let trouble = Trouble::new("reading", self.group.clone());
        Reading { stop, trouble, has_lost: false, link_number: None, knows_former: false }
    }

    /// Leaves a connection that was lost, and waits until it is time to try again.
    pub(super) async fn interrupted(&self, reading: &mut Reading<'_>, error: &RedisError) {
        if let Some(number) = reading.link_number.take() {
            self.shared.link.note(number, error);
        } else {
            reading.has_lost |= is_lost(error);
        }
        let delay = reading.trouble.happened(error);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = reading.stop.stopped() => {}
        }
    }

    /// Reads over one connection until it is to stop or to begin anew, or something goes wrong.
    async fn session(&self, reading: &mut Reading<'_>) -> RedisResult<()> {
        let stop = reading.stop;
        let mut connected = tokio::select! {
            connected = self.connect(reading) => connected?,
            () = stop.stopped() => return Ok(()),
        };
        let is_new = self.create_group().invoke_async(&mut connected.connection).await?;
        self.tell_created(is_new);
        self.look_at_former(reading, &mut connected.connection).await?;
        // before it reads anything: others leave to it what only it handles
        let _: Value = self.looking(FIRST).invoke_async(&mut connected.connection).await?;
        self.is_announced.store(true, Ordering::Release);
        self.has_caught_up.store(false, Ordering::Release);
        self.hold_back().await.map_err(sent)?;
        self.take_pending(&mut connected.connection, stop).await?;
        self.has_caught_up.store(true, Ordering::Release);
        self.has_ended_before.store(false, Ordering::Release);
        self.joined.notify_one();
        loop {
            let room = tokio::select! {
                room = self.hand.room() => room,
                () = stop.stopped() => return Ok(()),
            };
            let mut asked = room.min(self.shared.config.batch_size);
            let mut entries = self.read_new(&mut connected, asked, stop).await?;
            reading.trouble.is_over();
            if !entries.is_empty() && self.is_behind_backlog().await.map_err(sent)? {
                // what was read is pending and taken again after the backlog; until then no consumer takes it in
                self.has_caught_up.store(false, Ordering::Release);
                self.wait_for_backlog(stop).await.map_err(sent)?;
                return Ok(());
            }
            // where there was more to read, the next read is under way while this one is taken in
            while entries.len() >= asked && !stop.is_stopped() {
                let room = self.hand.room_beside(entries.len());
                if room == 0 {
                    break;
                }
                self.hand.more_follows(true);
                asked = room.min(self.shared.config.batch_size);
                let take_in = async {
                    tokio::task::yield_now().await; // until the read is sent
                    self.take_new(entries);
                };
                let (next, ()) = tokio::join!(self.read_new(&mut connected, asked, stop), take_in);
                entries = next?;
            }
            self.hand.more_follows(entries.len() >= asked);
            self.take_new(entries);
        }
    }

    pub(super) async fn connect(&self, reading: &mut Reading<'_>) -> RedisResult<Connected> {
        let config = &self.shared.config;
        let link = &self.shared.link;
        if config.single_connection_client {
            let (connection, number) = link.impatient().await.map_err(std::io::Error::other)?;
            reading.link_number = Some(number);
            return Ok(Connected { connection, client: None });
        }
        let timeout = SLICE + config.socket_timeout.min(MARGIN);
        let mut connection = link.dedicated(timeout).await?;
        let id = command::client_id().query_async(&mut connection).await;
        let lost = std::mem::take(&mut reading.has_lost);
        self.shared.counters.reconnections(u64::from(lost));
        Ok(Connected {
            connection,
            client: id.ok(), // some servers do not tell: then a stop takes as long as a slice
        })
    }

    /// Finds out, before it shows itself, whether the consumer before it of its name left when it ended. One that
    /// the group does not know any more counts as ended.
    async fn look_at_former(
        &self,
        reading: &mut Reading<'_>,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<()> {
        if reading.knows_former {
            return Ok(());
        }
        let former: Option<String> =
            redis::cmd("HGET").arg(&self.keys.members).arg(&self.name).query_async(connection).await?;
        let former = former.and_then(|former| serde_json::from_str::<serde_json::Value>(&former).ok());
        let has_left =
            former.is_some_and(|former| former["left"] == true || former["instance"] == *self.shared.instance);
        self.has_ended_before.store(!has_left, Ordering::Release);
        reading.knows_former = true;
        Ok(())
    }

    /// Creates the group if it is not there, and tells whether it did.
    pub(super) fn create_group(&self) -> ScriptInvocation<'static> {
        self.shared.create_listed_group(&self.group)
    }

    pub(super) fn tell_created(&self, is_new: bool) {
        if is_new {
            tracing::info!(group = %self.group, stream = self.shared.stream, "group created");
        }
    }

    /// Takes some entries again that are pending on this consumer from an id on and not in hand; says from where to go on.
    pub(super) async fn pending_again(
        &self,
        from: &str,
        count: usize,
    ) -> Result<(Option<String>, Retaken), CommandError> {
        let list = command::pending_on(&self.shared.stream, &self.group, &self.name, from, count);
        let ids = command::ids(self.shared.link.query(&list).await?)?;
        let Some(last) = ids.last() else {
            return Ok((None, Retaken::default()));
        };
        let next = format!("({last}");
        let Some(retake) = self.retake(&self.not_in_hand(ids)) else {
            return Ok((Some(next), Retaken::default()));
        };
        let (entries, noted, deleted) = self.rerun(retake).await?;
        Ok((Some(next), Retaken::read(entries, noted, deleted)?))
    }

    /// Takes in what is pending on this consumer and not in hand.
    async fn take_pending(&self, connection: &mut MultiplexedConnection, stop: &StopSignal) -> RedisResult<()> {
        let mut from = "-".to_owned();
        loop {
            let room = tokio::select! {
                room = self.hand.room() => room.min(self.shared.config.batch_size).min(command::TOGETHER),
                () = stop.stopped() => return Ok(()),
            };
            let list = command::pending_on(&self.shared.stream, &self.group, &self.name, &from, room);
            let ids = command::ids(list.query_async(connection).await?)?;
            let Some(last) = ids.last() else {
                return Ok(());
            };
            from = format!("({last}");
            let missing = self.not_in_hand(ids);
            if let Some(retake) = self.retake(&missing) {
                let (entries, noted, deleted) = retake.invoke_async(connection).await?;
                let has_ended = self.has_ended_before.load(Ordering::Acquire);
                let retaken = Retaken::read(entries, noted, deleted)?;
                self.take_again(retaken.of_processes(std::iter::repeat(has_ended)));
            }
        }
    }

    async fn read_new(
        &self,
        connected: &mut Connected,
        count: usize,
        stop: &StopSignal,
    ) -> RedisResult<Vec<command::Entry>> {
        let config = &self.shared.config;
        let reader = Reader { stream: &self.shared.stream, group: &self.group, consumer: &self.name, count };
        let block = Duration::from_millis(config.block_ms);
        if config.single_connection_client {
            let reply = reader.new_entries(None).query_async(&mut connected.connection).await?;
            let entries = command::entries(reply)?;
            if entries.is_empty() {
                tokio::select! {
                    () = tokio::time::sleep(POLL.min(block)) => {}
                    () = stop.stopped() => {}
                }
            }
            return Ok(entries);
        }
        let read = reader.new_entries(Some(block.min(SLICE)));
        let mut reading = pin!(self.read_to_the_end(connected, &read, stop.stopped()));
        let reply = tokio::select! {
            biased;
            reply = &mut reading => reply,
            () = tokio::time::sleep(SOON) => {
                self.hand.more_follows(false);
                reading.await
            }
        };
        command::entries(reply?)
    }

    /// Waits for a read; when it is to end, the server is asked to end the read, which loses no entry.
    pub(super) async fn read_to_the_end(
        &self,
        connected: &mut Connected,
        read: &Cmd,
        end: impl Future<Output = ()>,
    ) -> RedisResult<Value> {
        let client = connected.client;
        let mut reading = pin!(read.query_async(&mut connected.connection));
        tokio::select! {
            biased;
            reply = &mut reading => return reply,
            () = end => {}
        }
        let ending = async {
            loop {
                tokio::select! {
                    biased;
                    reply = &mut reading => return reply,
                    () = self.wake(client) => {}
                }
            }
        };
        // a server that does not answer at all is left; what it may have handed out is found again at the next start
        let ended = tokio::time::timeout(SLICE + MARGIN, ending).await;
        ended.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    async fn wake(&self, client: Option<i64>) {
        if let Some(client) = client {
            let wake = command::unblock(client);
            if let Err(error) = self.shared.link.query::<Value>(&wake).await {
                tracing::debug!(%error, "a waiting read cannot be woken, it ends by itself");
            }
        }
        tokio::time::sleep(WAKE_AGAIN).await;
    }

    /// Those of some entries that are neither in hand nor left pending on purpose.
    pub(super) fn not_in_hand(&self, ids: Vec<String>) -> Vec<String> {
        let left = self.left();
        let is_missing = |id: &String| {
            let id = eventbus::port::MessageId::new(id.as_str());
            !self.hand.contains(&id) && !left.contains(&id)
        };
        ids.into_iter().filter(is_missing).collect()
    }

    /// Reads entries again whose turn has come.
    pub(super) async fn read_again(&self, due: Vec<DueAgain>) -> Result<(), CommandError> {
        for (number, chunk) in due.chunks(command::TOGETHER).enumerate() {
            if let Err(error) = self.read_some_again(chunk).await {
                self.hand.not_read(due[number * command::TOGETHER..].iter().map(|due| &due.id));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn read_some_again(&self, due: &[DueAgain]) -> Result<(), CommandError> {
        let mut reread = self.script(&script::REREAD);
        reread.key(&self.keys.retry).key(&self.keys.relay).arg(self.group.as_str()).arg(&self.name);
        for due in due {
            reread.arg(due.id.as_str()).arg(u8::from(due.has_waited));
        }
        let (entries, noted, deleted, lost, unread): (_, _, _, Vec<String>, Vec<String>) = self.rerun(reread).await?;
        let ids = |ids: Vec<String>| ids.into_iter().map(MessageId::new).collect::<Vec<_>>();
        self.resume(Retaken::read(entries, noted, deleted)?);
        self.lose(&ids(lost));
        match self.hand.is_crowded() {
            // nothing is read while they wait
            true => self.hand.let_go(&ids(unread)),
            false => self.hand.put_off(&ids(unread), UNREAD),
        }
        Ok(())
    }

    /// Takes entries again that are pending on this consumer; `None` if there are none.
    pub(super) fn retake(&self, ids: &[String]) -> Option<ScriptInvocation<'static>> {
        if ids.is_empty() {
            return None;
        }
        let mut retake = self.script(&script::RETAKE);
        retake.key(&self.keys.retry).key(&self.keys.relay);
        retake.arg(self.group.as_str()).arg(&self.name).arg(ids);
        Some(retake)
    }
}
