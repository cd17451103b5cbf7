# Rails' ActiveRecord: it sets the session up, reads the schema from the catalogue, and prepares what it asks.
require "active_record"

host, port, user, database = ARGV
ActiveRecord::Base.establish_connection(adapter: "postgresql", host: host, port: port, username: user, database: database)
class Customer < ActiveRecord::Base
  has_many :orders
end
class Order < ActiveRecord::Base
  belongs_to :customer
end
class Scratch < ActiveRecord::Base
  self.table_name = "scratch"
end
show = ->(values) { values.map { |value| value.nil? ? "null" : value.to_s }.join(" ") }
same = ->(values) { values.uniq.size == 1 ? values[0] : raise(values.inspect) }
said = [Customer.where("id > ?", 0).count]
said << same.(Array.new(12) { show.(Customer.find(1).attributes.values_at("id", "name", "email", "card", "born")) })
order = Order.includes(:customer).find(5)
raise order.inspect unless order.placed.is_a?(Time) && order.customer.email == "***"
said << show.([order.id, order.customer_id, order.cents, order.item])
begin
  ActiveRecord::Base.transaction { Customer.connection.truncate("customers") }
rescue ActiveRecord::StatementInvalid => error
  said << error.cause.result.error_field(PG::PG_DIAG_SQLSTATE)
end
said << Order.count
raw = Customer.connection.raw_connection
copied = +""
raw.copy_data("copy (select id, email from customers where id < 3 order by id) to stdout") do
  while (line = raw.get_copy_data)
    copied << line
  end
end
said << show.(copied.split)
Scratch.transaction do
  Scratch.insert_all!(Array.new(1000) { { word: "driver-rails" } })
  said << Scratch.where(word: "driver-rails").count
  # A savepoint, taken back after what the server refuses.
  begin
    Scratch.transaction(requires_new: true) { Scratch.create!(word: nil) }
  rescue ActiveRecord::NotNullViolation
    raise "another count" unless Scratch.where(word: "driver-rails").count == 1000
  end
  raise ActiveRecord::Rollback
end
raise "names" unless Customer.order(:id).find_each(batch_size: 2).map(&:email).uniq == ["***"]
c = Customer.connection
raise c.tables.inspect unless (c.tables & %w[customers orders scratch]).size == 3
raise "keys" unless c.foreign_keys("orders").map(&:to_table) == ["customers"] && c.indexes("orders").empty?
puts said.join(" | ")
