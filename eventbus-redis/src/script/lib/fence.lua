-- Refuses a consumer that no longer owns its partition. The last key is the lease, the last argument the epoch.
if redis.call('HGET', table.remove(KEYS), 'epoch') ~= table.remove(ARGV) then
  return redis.error_reply('FENCED the consumer no longer owns the partition')
end
