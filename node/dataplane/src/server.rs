//! Answers the CNI plugin over the unix socket, one request per connection.

use std::{future::Future, io, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use fairlead_cni::protocol::{self, Answer, PodRef, ProtocolError, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    engine::{Command, Outcome},
    model::{Change, Pod},
};

/// Requests in progress at most; more wait in the socket's backlog.
const CONNECTIONS: usize = 64;

/// How long a plugin may take to send its request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Finds a pod that the informers have not delivered yet.
pub trait PodLookup: Send + Sync + 'static {
    /// The pod, None when there is none of that name, or why it cannot be told.
    fn pod<'a>(
        &'a self,
        pod: &'a PodRef,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Pod>, String>> + Send + 'a>>;
}

impl PodLookup for kube::Client {
    fn pod<'a>(
        &'a self,
        pod: &'a PodRef,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Pod>, String>> + Send + 'a>> {
        Box::pin(async move {
            crate::watch::get_pod(self, &pod.namespace, &pod.name).await.map_err(|error| error.to_string())
        })
    }
}

/// Serves the socket until `shutdown` is cancelled.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(
    path: PathBuf,
    commands: mpsc::Sender<Command>,
    pods: Arc<dyn PodLookup>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let at = |source| Error::File { path: path.clone(), source };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(at)?;
    // Whoever may connect may change the network of pods: root only.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(at)?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await;
        let stream = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the CNI socket did not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (commands, pods) = (commands.clone(), pods.clone());
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = converse(stream, &commands, pods.as_ref()).await {
                tracing::warn!(%error, "a CNI request was not answered");
            }
        });
    }
}

async fn converse(
    mut stream: UnixStream,
    commands: &mpsc::Sender<Command>,
    pods: &dyn PodLookup,
) -> Result<(), ProtocolError> {
    let read = async {
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix).await?;
        let mut body = vec![0; protocol::body_length(prefix)?];
        stream.read_exact(&mut body).await?;
        Ok::<_, ProtocolError>(serde_json::from_slice::<Request>(&body)?)
    };
    let request = tokio::time::timeout(REQUEST_DEADLINE, read)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the plugin sent no request"))??;
    tracing::debug!(?request, "CNI request");
    let answer = answer(request, commands, pods).await;
    tracing::debug!(?answer, "CNI answer");
    stream.write_all(&protocol::encode(&answer)?).await?;
    Ok(())
}

async fn ask(commands: &mpsc::Sender<Command>, request: Request) -> Outcome {
    let (sender, receiver) = oneshot::channel();
    let gone =
        || Outcome::Answer(Answer::Refused { retry: true, message: "the dataplane is stopping".to_owned() });
    if commands.send(Command::Cni(request, sender)).await.is_err() {
        return gone();
    }
    receiver.await.unwrap_or_else(|_| gone())
}

/// Carries a request to the engine, and fetches the pod if that does not know it. A pod whose labels cannot be told
/// gets no network: its policies would be guessed.
async fn answer(request: Request, commands: &mpsc::Sender<Command>, pods: &dyn PodLookup) -> Answer {
    let refused = |retry, message| Answer::Refused { retry, message };
    if let Outcome::Answer(answer) = ask(commands, request.clone()).await {
        return answer;
    }
    let Request::Allocate { pod: reference, .. } = &request else {
        return refused(false, "the dataplane asked for a pod that the request does not name".to_owned());
    };
    let (namespace, name) = (&reference.namespace, &reference.name);
    let pod = match pods.pod(reference).await {
        Ok(Some(pod)) if reference.uid.is_empty() || pod.uid == reference.uid => pod,
        Ok(Some(_)) => return refused(true, format!("pod {namespace}/{name} is another one now")),
        Ok(None) => return refused(true, format!("pod {namespace}/{name} does not exist")),
        Err(error) => return refused(true, format!("pod {namespace}/{name} cannot be read: {error}")),
    };
    if commands.send(Command::Change(Change::Pod(pod))).await.is_err() {
        return refused(true, "the dataplane is stopping".to_owned());
    }
    match ask(commands, request.clone()).await {
        Outcome::Answer(answer) => answer,
        Outcome::NeedPod => refused(true, format!("pod {namespace}/{name} changed meanwhile")),
    }
}
