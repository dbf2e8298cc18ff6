/// Declares the `Connection` of a runtime.
macro_rules! connection {
    ($runtime:ty, $name:literal) => {
        #[doc = concat!("A connection on ", $name, ".")]
        ///
        /// It dereferences to the [`Connection`](amqp_client_core::Connection) of all runtimes, which has its methods. A
        /// task of the runtime moves its octets; it ends with the connection.
        #[derive(Clone, Debug)]
        pub struct Connection {
            connection: amqp_client_core::Connection,
        }

        impl Connection {
            /// Connects to the broker that a URI names, as `amqp://user:password@host:5672/vhost?heartbeat=10`. With several
            /// hosts, tries one after the other.
            ///
            /// When it is lost later, another one is made, with all that was declared and consumed: see
            /// [recovery](amqp_client_core::recovery).
            ///
            /// # Errors
            /// [`ConnectError`](amqp_client_core::ConnectError), as [`open_target`](Self::open_target).
            ///
            /// # Cancel safety
            /// Dropping the future gives the attempt up.
            pub async fn open(uri: &str) -> Result<Self, amqp_client_core::ConnectError> {
                Self::open_target(uri.parse()?).await
            }

            /// Connects to one of the nodes of `target`, the first that takes it. Each is given the configured
            /// [`connect_timeout`](amqp_client_core::Settings::connect_timeout).
            ///
            /// # Errors
            /// [`ConnectError`](amqp_client_core::ConnectError). A node that refuses what every node would refuse, such as
            /// the credentials, is the last that is tried. Otherwise the first refusal of a node that was reached, or else
            /// why the last node was not.
            ///
            /// # Cancel safety
            /// Dropping the future gives the attempt up.
            pub async fn open_target(
                target: amqp_client_core::Target,
            ) -> Result<Self, amqp_client_core::ConnectError> {
                let connection = amqp_client_core::runtime::open::<$runtime>(target).await?;
                Ok(Self { connection })
            }

            /// Begins a connection over any stream with the traits of `futures-io`: a Unix socket, a proxy's tunnel, an
            /// in-memory pipe. Returns its handle, and the future that drives it until it is over, to be spawned or polled
            /// by the caller; nothing happens without.
            pub fn open_with<S>(
                stream: S,
                config: amqp_client_core::Config,
            ) -> (Self, impl std::future::Future<Output = ()> + Send)
            where
                S: futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin,
            {
                let stream = $crate::stream::Stream(stream);
                let (connection, drive) =
                    amqp_client_core::runtime::begin::<$runtime, _>(stream, config);
                (Self { connection }, drive)
            }

            /// The same inside of a TLS session with `host`.
            ///
            /// # Errors
            /// [`TlsError`](amqp_client_core::tls::TlsError), which says what is wrong with which file.
            #[cfg(feature = "tls")]
            pub fn open_tls_with<S>(
                stream: S,
                tls: &amqp_client_core::tls::TlsOptions,
                host: &str,
                config: amqp_client_core::Config,
            ) -> Result<
                (Self, impl std::future::Future<Output = ()> + Send + use<S>),
                amqp_client_core::tls::TlsError,
            >
            where
                S: futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin,
            {
                let stream = $crate::stream::Stream(stream);
                let (connection, drive) =
                    amqp_client_core::runtime::begin_tls::<$runtime, _>(stream, tls, host, config)?;
                Ok((Self { connection }, drive))
            }
        }

        impl std::ops::Deref for Connection {
            type Target = amqp_client_core::Connection;

            fn deref(&self) -> &Self::Target {
                &self.connection
            }
        }
    };
}
pub(crate) use connection;
