-- True if `append_in` appended in this transaction and the append was not rolled back: a setting local to the
-- transaction.
coalesce(current_setting('eventbus.appended_{namespace}', true) = 'on', false)
