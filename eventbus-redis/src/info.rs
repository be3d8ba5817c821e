//! What the server says about the stream and its groups.

use eventbus::{
    Name,
    port::{ConsumeError, GroupInfo, GroupProgress, StreamInfo},
};
use redis::{RedisResult, Value};

use crate::{
    bus::Shared,
    command::{self, Group},
    connection::{CommandError, boxed},
};

impl Shared {
    pub(crate) async fn stream_info(&self) -> StreamInfo {
        let asked = match self.consuming.is_closed() {
            true => None,
            false => self.ask().await.map_or_else(
                |error| {
                    tracing::warn!(stream = self.stream, %error, "stream cannot be inspected");
                    None
                },
                Some,
            ),
        };
        let mut info = asked.unwrap_or_default();
        info.stats = self.counters.snapshot();
        info
    }

    async fn ask(&self) -> Result<StreamInfo, CommandError> {
        let dead_letters = self.config.dlq_stream_name();
        let commands = command::inspect(&self.stream, &dead_letters);
        let replies: Vec<RedisResult<Value>> = self.link.query_all(&commands).await?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
        let stream = command::stream(next())?;
        let mut groups = command::groups(next())?;
        groups.sort_by(|a, b| a.name.cmp(&b.name));

        let mut info = StreamInfo::default();
        info.connected = true;
        info.stream.name.clone_from(&self.stream);
        info.stream.length = stream.length;
        info.stream.first_entry_id = stream.first_id;
        info.stream.last_entry_id = stream.last_id;
        info.pending_messages = groups.iter().map(|group| group.pending).sum();
        info.active_consumers = groups.iter().map(|group| group.consumers).sum();
        info.consumer_groups =
            groups.into_iter().map(|group| GroupInfo::new(group.name, group.consumers, group.pending)).collect();
        info.dlq_messages = redis::from_redis_value(next()?).map_err(redis::RedisError::from)?;
        Ok(info)
    }

    pub(crate) async fn progress(&self, group: &Name) -> Result<GroupProgress, ConsumeError> {
        let destination = || self.destination.clone();
        if self.consuming.is_closed() {
            return Err(ConsumeError::ShutDown { destination: destination() });
        }
        self.ask_progress(group)
            .await
            .map_err(|error| ConsumeError::Unavailable { destination: destination(), source: boxed(error) })
    }

    async fn ask_progress(&self, group: &Name) -> Result<GroupProgress, CommandError> {
        let commands = command::inspect_groups(&self.stream);
        let replies: Vec<RedisResult<Value>> = self.link.query_all(&commands).await?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
        let groups = command::groups(next())?;
        let length = redis::from_redis_value(next()?).map_err(redis::RedisError::from)?;
        let Some(found) = groups.into_iter().find(|found| *group == found.name.as_str()) else {
            // it would begin with the oldest entry
            return Ok(GroupProgress { unread: length, ..GroupProgress::default() });
        };
        Ok(GroupProgress {
            unread: self.unread(&found).await?.min(length),
            pending: found.pending,
            exhausted: self.failures.count(group).min(found.pending),
        })
    }

    /// Where the server does not know how many entries are unread, they are counted, a thousand at a time.
    async fn unread(&self, group: &Group) -> Result<u64, CommandError> {
        if let Some(lag) = group.lag {
            return Ok(lag);
        }
        let (mut unread, mut after) = (0, group.last_delivered.clone());
        loop {
            let count = command::count_after(&self.stream, &after);
            let (found, last): (u64, String) = self.link.query(&count).await?;
            unread += found;
            if found == 0 {
                return Ok(unread);
            }
            after = last;
        }
    }
}
