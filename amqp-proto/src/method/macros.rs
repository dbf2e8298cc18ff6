/// Declares the methods, one row each:
///
/// ```text
/// Name "class.method" = (class id, method id) [content] [boxed] [-> Reply | => Reply] {
///     arguments; [bits]; arguments
/// }
/// ```
///
/// `->` makes the method a `Request` of channels with a typed reply. `=>` only records the reply: the state machines handle the
/// lifecycle of connections and channels. `content` means that a content header and body follow. `boxed` means
/// that [`Method`] boxes it, because it is large and rare: each event has room for the largest unboxed method. No method has two runs
/// of bits.
macro_rules! methods {
    ($(
        $(#[$doc:meta])*
        $name:ident $spec:literal = ($class:literal, $method:literal)
        $(content $(@ $content:tt)?)? $(boxed $(@ $boxed:tt)?)?
        $(-> $reply:ident $(| $other:ident as $either:ident)?)?
        $(=> $answer:ident)?
        {
            $($(#[$b_doc:meta])* $before:ident: $b_type:ty),* $(,)?
            $(; [$($(#[$bit_doc:meta])* $bit:ident),* $(,)?]
            $(; $($(#[$a_doc:meta])* $after:ident: $a_type:ty),* $(,)?)?)?
        }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Default)]
            pub struct $name {
                $($(#[$b_doc])* pub $before: $b_type,)*
                $($($(#[$bit_doc])* pub $bit: bool,)*
                $($($(#[$a_doc])* pub $after: $a_type,)*)?)?
            }

            impl sealed::Sealed for $name {}

            impl Arguments for $name {
                const CLASS_ID: u16 = $class;
                const METHOD_ID: u16 = $method;
                const NAME: &'static str = $spec;
                const FACTS: MethodFacts = MethodFacts {
                    name: $spec,
                    id: ($class, $method),
                    arguments: &[
                        $((stringify!($before), <$b_type as Wire>::TYPE),)*
                        $($((stringify!($bit), "bit"),)*
                        $($((stringify!($after), <$a_type as Wire>::TYPE),)*)?)?
                    ],
                    replies: &[
                        $(($reply::CLASS_ID, $reply::METHOD_ID),
                        $(($other::CLASS_ID, $other::METHOD_ID),)?)?
                        $(($answer::CLASS_ID, $answer::METHOD_ID),)?
                    ],
                    content: methods!(@given $(content $($content)?)?),
                };

                #[allow(unused_variables, reason = "methods without arguments read nothing")]
                fn decode(arguments: &Bytes) -> Result<Self, DecodeError> {
                    let rest: &[u8] = arguments;
                    $(let (rest, $before) = argument(
                        rest, arguments, concat!($spec, " ", stringify!($before)))?;)*
                    $(
                        let (rest, bits) = packed_bits(rest, concat!($spec, " bits"))?;
                        let mut index = 0u32..;
                        $(let $bit = index.next().is_some_and(|index| bit_set(bits, index));)*
                        $($(let (rest, $after) = argument(
                            rest, arguments, concat!($spec, " ", stringify!($after)))?;)*)?
                    )?
                    end(rest, $spec)?;
                    Ok(Self { $($before,)* $($($bit,)* $($($after,)*)?)? })
                }

                fn encode(&self, out: &mut Vec<u8>) {
                    let [c0, c1] = u16::to_be_bytes($class);
                    let [m0, m1] = u16::to_be_bytes($method);
                    out.extend_from_slice(&[c0, c1, m0, m1]);
                    $(Wire::encode(&self.$before, out);)*
                    $(
                        let flags: &[bool] = &[$(self.$bit),*];
                        out.push(flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag)));
                        $($(Wire::encode(&self.$after, out);)*)?
                    )?
                }
            }

            impl From<$name> for Method {
                fn from(method: $name) -> Self {
                    Self::$name(method.into())
                }
            }

            methods!(@request $name [$($reply $(| $other as $either)?)?] [$($($bit)*)?]);
        )*

        /// Any method. The largest of the rare ones are boxed.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Method {
            $(
                #[doc = concat!("`", $spec, "`")]
                $name(methods!(@held $name $(boxed $($boxed)?)?)),
            )*
        }

        impl Method {
            /// Every method there is, in the order of the specification.
            pub const ALL: &'static [MethodFacts] = &[$($name::FACTS),*];

            /// Decodes the payload of a method frame.
            ///
            /// # Errors
            /// [`DecodeError`], which names the method and the argument.
            pub fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
                let (rest, class_id) = finish(crate::wire::u16_be(payload), "class id")?;
                let (rest, method_id) = finish(crate::wire::u16_be(rest), "method id")?;
                let arguments = payload.slice_ref(rest);
                match (class_id, method_id) {
                    $(($class, $method) => $name::decode(&arguments).map(Self::from),)*
                    _ => Err(DecodeError::new(
                        DecodeErrorKind::UnknownMethod { class_id, method_id }, "method frame")),
                }
            }

            /// Appends the payload of a method frame.
            pub fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$name(method) => method.encode(out),)*
                }
            }

            /// Calls `visit` with the name and the value of each argument, in order. Credentials show no bytes.
            ///
            /// ```
            /// use amqp_proto::method::{BasicQos, Method};
            ///
            /// let method = Method::from(BasicQos { prefetch_count: 7, ..Default::default() });
            /// let mut seen = Vec::new();
            /// method.each_argument(|name, value| seen.push(format!("{name}={value:?}")));
            /// assert_eq!(seen, ["prefetch_size=0", "prefetch_count=7", "global=false"]);
            /// ```
            #[allow(unused_mut, unused_variables, reason = "methods without arguments visit nothing")]
            pub fn each_argument(&self, mut visit: impl FnMut(&'static str, &dyn core::fmt::Debug)) {
                match self {
                    $(Self::$name(method) => {
                        $(visit(stringify!($before), &method.$before);)*
                        $($(visit(stringify!($bit), &method.$bit);)*
                        $($(visit(stringify!($after), &method.$after);)*)?)?
                    })*
                }
            }

            /// Returns the facts that the specification states about this method.
            #[must_use]
            pub const fn facts(&self) -> &'static MethodFacts {
                match self {
                    $(Self::$name(_) => &$name::FACTS,)*
                }
            }
        }
    };

    (@held $name:ident) => { $name };
    (@held $name:ident boxed) => { Box<$name> };
    (@given) => { false };
    (@given content) => { true };

    (@request $name:ident [] [$($bit:ident)*]) => {};
    (@request $name:ident [$reply:ident] [$($bit:ident)*]) => {
        impl Request for $name {
            type Reply = $reply;
            methods!(@no_wait $($bit)*);
        }

        impl FromReply for $reply {
            fn from_reply(reply: crate::Reply) -> Option<Self> {
                match reply {
                    crate::Reply::Method(Method::$reply(reply)) => Some(reply),
                    _ => None,
                }
            }
        }
    };
    (@request $name:ident [$reply:ident | $other:ident as $either:ident] [$($bit:ident)*]) => {
        impl Request for $name {
            type Reply = crate::$either;
            methods!(@no_wait $($bit)*);
        }
    };

    (@no_wait $($bit:ident)*) => {
        fn is_no_wait(&self) -> bool {
            false $(|| methods!(@no_wait_bit $bit self))*
        }
    };
    (@no_wait_bit no_wait $self:ident) => { $self.no_wait };
    (@no_wait_bit $other:ident $self:ident) => { false };
}
