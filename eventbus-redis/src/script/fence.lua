-- Refuses a consumer that has lost its partition. The last key is the lease, the last argument its epoch.
if redis.call('HGET', table.remove(KEYS), 'epoch') ~= table.remove(ARGV) then
  return redis.error_reply('FENCED the partition has another owner')
end
