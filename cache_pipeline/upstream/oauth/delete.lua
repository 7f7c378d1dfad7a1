-- Deletes one token, unless another one has replaced it.
--
-- KEYS  token, login, refused
-- ARGV  sealed token

if redis.call('HGET', KEYS[1], 'sealed') == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return redis.status_reply('OK')
