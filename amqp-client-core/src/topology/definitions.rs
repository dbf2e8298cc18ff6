use std::collections::HashSet;

use amqp_proto::method::{ExchangeBind, ExchangeDeclare, QueueBind, QueueDeclare};
use amqp_proto::session::Entity;
use amqp_proto::{FieldArray, FieldTable, ShortStr, Value};
use serde_json::{Map, Value as Json, json};
use thiserror::Error;

use super::{Binding, Topology};
use crate::error::CallError;

/// The deepest nesting of arguments.
const DEPTH: usize = 16;

impl Topology {
    /// Writes the topology as RabbitMQ's definitions, for `rabbitmqctl import_definitions` and the management plugin. Feature
    /// `definitions`.
    ///
    /// Arguments are sorted by their names. Definitions have neither exclusive queues nor queues without a name: these and their bindings
    /// are left out. Entities that are only expected to exist are left out as well, but not their bindings: import them where these
    /// entities exist.
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::topology::Topology;
    /// use amqp_client_tokio::{QueueOptions, QueueType};
    ///
    /// let options = QueueOptions::new().queue_type(QueueType::Quorum);
    /// let topology = Topology::new().queue("jobs", options).bind("jobs", "amq.topic", "#");
    /// let definitions = topology.to_definitions("/")?;
    /// assert_eq!(Topology::from_definitions(&definitions, "/")?, topology);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DefinitionsError`], if a name or argument has no form in JSON: bytes that are not UTF-8, for example.
    pub fn to_definitions(&self, virtual_host: &str) -> Result<String, DefinitionsError> {
        if let Some((entity, error)) = self.errors.first() {
            let (entity, error) = (Box::new(entity.clone()), error.clone());
            return Err(DefinitionsError::Invalid { entity, error });
        }
        let exchanges = self.exchanges.iter().filter(|one| !one.passive).map(|one| {
            let entity = Entity::Exchange(one.exchange.clone());
            Ok(json!({
                "name": text(&entity, &one.exchange)?,
                "vhost": virtual_host,
                "type": text(&entity, &one.kind)?,
                "durable": one.durable,
                "auto_delete": one.auto_delete,
                "internal": one.internal,
                "arguments": object(&entity, &one.arguments)?,
            }))
        });
        let has_form = |one: &&QueueDeclare| !one.exclusive && !one.queue.is_empty();
        let queues = self.declared_queues().filter(has_form).map(|one| {
            let entity = Entity::Queue(one.queue.clone());
            Ok(json!({
                "name": text(&entity, &one.queue)?,
                "vhost": virtual_host,
                "durable": one.durable,
                "auto_delete": one.auto_delete,
                "arguments": object(&entity, &one.arguments)?,
            }))
        });
        let exclusive: HashSet<_> = self
            .queues
            .iter()
            .filter(|one| one.exclusive)
            .map(|one| one.queue.as_bytes())
            .collect();
        let is_left_out =
            |queue: &ShortStr| queue.is_empty() || exclusive.contains(queue.as_bytes());
        let bindings = self.bindings.iter().filter_map(|binding| {
            let (source, destination, kind, key, arguments) = match binding {
                Binding::Queue(bind) if is_left_out(&bind.queue) => return None,
                Binding::Queue(bind) => {
                    (&bind.exchange, &bind.queue, "queue", &bind.routing_key, &bind.arguments)
                }
                Binding::Exchange(bind) => (
                    &bind.source,
                    &bind.destination,
                    "exchange",
                    &bind.routing_key,
                    &bind.arguments,
                ),
            };
            let entity = binding.entity();
            let written = || {
                Ok(json!({
                    "source": text(&entity, source)?,
                    "vhost": virtual_host,
                    "destination": text(&entity, destination)?,
                    "destination_type": kind,
                    "routing_key": text(&entity, key)?,
                    "arguments": object(&entity, arguments)?,
                }))
            };
            Some(written())
        });
        let definitions = json!({
            "exchanges": exchanges.collect::<Result<Vec<_>, _>>()?,
            "queues": queues.collect::<Result<Vec<_>, _>>()?,
            "bindings": bindings.collect::<Result<Vec<_>, _>>()?,
        });
        Ok(format!("{definitions:#}"))
    }

    /// Reads the exchanges, queues and bindings of one virtual host from RabbitMQ's definitions, such as those of `rabbitmqctl
    /// export_definitions`. Everything else in them is ignored, and so is a byte order mark. Whole numbers of arguments become 64-bit
    /// integers. Feature `definitions`.
    ///
    /// The definitions of a single virtual host do not name it in each entry. Such entries count as entries of the one asked for.
    ///
    /// ```
    /// # use amqp_client_core as amqp_client_tokio;
    /// use amqp_client_tokio::topology::Topology;
    ///
    /// let definitions = r#"{ "queues": [{ "name": "jobs", "vhost": "/", "durable": true }] }"#;
    /// let topology = Topology::from_definitions(definitions, "/")?;
    /// assert_eq!(topology.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DefinitionsError`], if this is not JSON, or an entry is not what it should be.
    pub fn from_definitions(
        definitions: &str,
        virtual_host: &str,
    ) -> Result<Self, DefinitionsError> {
        // Some tools of Windows begin each file with a byte order mark.
        let definitions = definitions.strip_prefix('\u{feff}').unwrap_or(definitions);
        let json: Json = serde_json::from_str(definitions)
            .map_err(|error| DefinitionsError::NotJson(error.to_string()))?;
        let mut topology = Self::new();
        for entry in entries(&json, "exchanges", virtual_host)? {
            topology.exchanges.push(ExchangeDeclare {
                exchange: entry.name("name")?,
                kind: entry.name("type")?,
                durable: entry.flag("durable")?,
                auto_delete: entry.flag("auto_delete")?,
                internal: entry.flag("internal")?,
                arguments: entry.arguments()?,
                ..ExchangeDeclare::default()
            });
        }
        for entry in entries(&json, "queues", virtual_host)? {
            topology.queues.push(QueueDeclare {
                queue: entry.name("name")?,
                durable: entry.flag("durable")?,
                auto_delete: entry.flag("auto_delete")?,
                arguments: entry.arguments()?,
                ..QueueDeclare::default()
            });
        }
        for entry in entries(&json, "bindings", virtual_host)? {
            let (source, destination) = (entry.name("source")?, entry.name("destination")?);
            let (routing_key, arguments) = (entry.name("routing_key")?, entry.arguments()?);
            topology.bindings.push(match entry.text("destination_type")? {
                "queue" => Binding::Queue(QueueBind {
                    queue: destination,
                    exchange: source,
                    routing_key,
                    arguments,
                    ..QueueBind::default()
                }),
                "exchange" => Binding::Exchange(ExchangeBind {
                    destination,
                    source,
                    routing_key,
                    arguments,
                    ..ExchangeBind::default()
                }),
                _ => return Err(entry.wrong("destination_type", "queue or exchange")),
            });
        }
        Ok(topology)
    }
}

/// Definitions that cannot be written or read.
///
/// ```
/// # use amqp_client_core as amqp_client_tokio;
/// use amqp_client_tokio::topology::Topology;
///
/// let error = Topology::from_definitions(r#"{ "queues": [{ "name": 5 }] }"#, "/");
/// assert_eq!(error.expect_err("no name").to_string(), "queues[0]: name is not a text");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DefinitionsError {
    /// The text is not JSON.
    #[error("the definitions are not JSON: {0}")]
    NotJson(String),
    /// A part of the definitions is missing, or has another type.
    #[error("{place}: {field} is not {expected}")]
    Unexpected {
        /// The entry, such as `queues[3]`.
        place: String,
        /// The field of the entry.
        field: String,
        /// The value that it should have.
        expected: &'static str,
    },
    /// A declaration cannot be encoded, so it is not a part of the topology.
    #[error("{entity} cannot be declared")]
    Invalid {
        /// The exchange or queue.
        entity: Box<Entity>,
        /// The reason.
        #[source]
        error: CallError,
    },
    /// A name is not UTF-8, or an argument has a type that JSON does not have.
    #[error("{entity}: {what} has no form in JSON")]
    NoJson {
        /// The exchange, queue or binding.
        entity: Box<Entity>,
        /// The name or argument.
        what: String,
    },
}

fn text<'a>(entity: &Entity, name: &'a ShortStr) -> Result<&'a str, DefinitionsError> {
    std::str::from_utf8(name.as_bytes()).map_err(|_| no_json(entity, "a name"))
}

fn no_json(entity: &Entity, what: &str) -> DefinitionsError {
    DefinitionsError::NoJson { entity: Box::new(entity.clone()), what: what.to_owned() }
}

fn object(entity: &Entity, table: &FieldTable) -> Result<Json, DefinitionsError> {
    object_at(table, DEPTH).map_err(|name| no_json(entity, &name))
}

/// Converts a table. The error is the name of the argument that cannot be converted.
fn object_at(table: &FieldTable, depth: usize) -> Result<Json, String> {
    let entries = table.iter().map(|(name, value)| {
        let text = std::str::from_utf8(name.as_bytes()).map_err(|_| name.to_string())?;
        let value = to_json(&value, depth).ok_or_else(|| name.to_string())?;
        Ok((text.to_owned(), value))
    });
    entries.collect::<Result<Map<_, _>, String>>().map(Json::Object)
}

fn to_json(value: &Value, depth: usize) -> Option<Json> {
    let depth = depth.checked_sub(1)?;
    Some(match value {
        Value::Bool(flag) => Json::Bool(*flag),
        Value::LongStr(_) => Json::String(value.as_str()?.to_owned()),
        Value::F32(number) => json_number(f64::from(*number))?,
        Value::F64(number) => json_number(*number)?,
        Value::Table(table) => object_at(table, depth).ok()?,
        Value::Array(array) => {
            Json::Array(array.iter().map(|value| to_json(&value, depth)).collect::<Option<_>>()?)
        }
        Value::Timestamp(_) => return None,
        other => Json::from(other.as_i64()?),
    })
}

fn json_number(number: f64) -> Option<Json> {
    serde_json::Number::from_f64(number).map(Json::Number)
}

fn from_json(json: &Json, depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    Some(match json {
        Json::Bool(flag) => Value::from(*flag),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::from(number),
            // As a floating-point number, it would be another one.
            None if number.is_u64() => return None,
            None => Value::from(number.as_f64()?),
        },
        Json::Object(object) => Value::from(table(object, depth).ok()?),
        Json::Array(array) => {
            let values: Option<Vec<_>> = array.iter().map(|json| from_json(json, depth)).collect();
            Value::from(FieldArray::from_values(values?).ok()?)
        }
        Json::Null => Value::Void,
    })
}

/// Converts an object. The error is the name of the argument that cannot be converted.
fn table(object: &Map<String, Json>, depth: usize) -> Result<FieldTable, String> {
    object.iter().try_fold(FieldTable::new(), |table, (name, json)| {
        let value = from_json(json, depth).ok_or_else(|| name.clone())?;
        table.with(name, value).map_err(|_| name.clone())
    })
}

/// An entry of the definitions, and where it is.
struct Entry<'a> {
    list: &'static str,
    index: usize,
    object: &'a Map<String, Json>,
}

/// Returns the entries of a list that belong to a virtual host.
fn entries<'a>(
    json: &'a Json,
    list: &'static str,
    virtual_host: &str,
) -> Result<Vec<Entry<'a>>, DefinitionsError> {
    let wrong = |place: String, field: &str, expected| DefinitionsError::Unexpected {
        place,
        field: field.to_owned(),
        expected,
    };
    let Some(root) = json.as_object() else {
        return Err(wrong("definitions".to_owned(), "the root", "an object"));
    };
    let Some(found) = root.get(list) else { return Ok(Vec::new()) };
    let Some(found) = found.as_array() else {
        return Err(wrong("definitions".to_owned(), list, "a list"));
    };
    let mut entries = Vec::new();
    for (index, json) in found.iter().enumerate() {
        let Some(object) = json.as_object() else {
            return Err(wrong(format!("{list}[{index}]"), "the entry", "an object"));
        };
        let entry = Entry { list, index, object };
        if !entry.object.contains_key("vhost") || entry.text("vhost")? == virtual_host {
            entries.push(entry);
        }
    }
    Ok(entries)
}

impl Entry<'_> {
    fn wrong(&self, field: &str, expected: &'static str) -> DefinitionsError {
        let place = format!("{}[{}]", self.list, self.index);
        DefinitionsError::Unexpected { place, field: field.to_owned(), expected }
    }

    fn text(&self, field: &str) -> Result<&str, DefinitionsError> {
        let value = self.object.get(field).and_then(Json::as_str);
        value.ok_or_else(|| self.wrong(field, "a text"))
    }

    fn name(&self, field: &str) -> Result<ShortStr, DefinitionsError> {
        ShortStr::named("name", self.text(field)?)
            .map_err(|_| self.wrong(field, "at most 255 bytes long"))
    }

    /// A flag, by default `false`.
    fn flag(&self, field: &str) -> Result<bool, DefinitionsError> {
        match self.object.get(field) {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(field, "true or false")),
        }
    }

    fn arguments(&self) -> Result<FieldTable, DefinitionsError> {
        match self.object.get("arguments") {
            None => Ok(FieldTable::new()),
            Some(Json::Object(object)) => table(object, DEPTH).map_err(|name| {
                self.wrong(&format!("argument {name}"), "a value of a field table")
            }),
            // Some exports write an empty object as a list.
            Some(Json::Array(list)) if list.is_empty() => Ok(FieldTable::new()),
            Some(_) => Err(self.wrong("arguments", "an object")),
        }
    }
}
