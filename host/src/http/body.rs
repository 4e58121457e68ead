//! Reads what a request brings: so large at most, not slower than that, and all of them together no more than there is room.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::Problem;

/// A body may take so long to come …
const PATIENCE: Duration = Duration::from_secs(10);
/// … and a second more for each so many bytes that came.
const PACE: u64 = 256 * 1024;
/// Room is counted in these.
const UNIT: usize = 1024;

/// Room for the bodies of all requests.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

/// Given back when it is dropped.
#[derive(Default)]
pub(super) struct Taken(Option<OwnedSemaphorePermit>);

impl Room {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(
            (bytes / UNIT).min(Semaphore::MAX_PERMITS),
        )))
    }

    /// False: there is none.
    fn grow(&self, taken: &mut Taken, bytes: usize) -> bool {
        let has = taken.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(UNIT).saturating_sub(has);
        if more == 0 {
            return true;
        }
        let Ok(more) = u32::try_from(more) else {
            return false;
        };
        let Ok(permit) = Arc::clone(&self.0).try_acquire_many_owned(more) else {
            return false;
        };
        match &mut taken.0 {
            Some(taken) => taken.merge(permit),
            none => *none = Some(permit),
        }
        true
    }
}

/// How large it may be, and the setting that says so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    pub bytes: usize,
    pub setting: &'static str,
}

/// With the room it takes.
pub(super) async fn read(mut body: Body, most: Most, room: &Room) -> Result<(Bytes, Taken), Problem> {
    let start = Instant::now();
    let (mut pieces, mut size, mut taken) = (Vec::new(), 0_usize, Taken::default());
    loop {
        let piece = match timeout_at(start + patience(size), body.frame()).await {
            Err(_) => return Err(too_slow(size)),
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(Problem::bad_request(format!("the body broke off: {error}"))),
            Ok(Some(Ok(frame))) => frame,
        };
        // Trailers say nothing here.
        let Ok(piece) = piece.into_data() else { continue };
        size = size.saturating_add(piece.len());
        if size > most.bytes {
            return Err(Problem::too_large(format!(
                "the body is over {} bytes ({})",
                most.bytes, most.setting
            )));
        }
        if !room.grow(&mut taken, size) {
            return Err(Problem::too_many(
                "the requests under way bring more than the host has room for",
            ));
        }
        pieces.push(piece);
    }
    Ok((whole(pieces, size), taken))
}

/// From the beginning, when so much has come.
fn patience(size: usize) -> Duration {
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    PATIENCE + Duration::from_millis(size.saturating_mul(1000) / PACE)
}

fn too_slow(size: usize) -> Problem {
    Problem::too_slow(format!(
        "{size} bytes of the body came in {} s; a body gets {} s, and a second more for each {} KiB",
        patience(size).as_secs(),
        PATIENCE.as_secs(),
        PACE / 1024
    ))
}

/// Mostly there is one piece, which is not copied.
fn whole(mut pieces: Vec<Bytes>, size: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut whole = Vec::with_capacity(size);
    for piece in pieces {
        whole.extend_from_slice(&piece);
    }
    whole.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use futures::stream;

    use super::*;

    const MOST: Most = Most {
        bytes: 4096,
        setting: "limits.message_size",
    };

    /// A piece every so often.
    fn body(pieces: Vec<&'static [u8]>, every: Duration) -> Body {
        let pieces = stream::unfold(pieces.into_iter(), move |mut rest| async move {
            let piece = rest.next()?;
            tokio::time::sleep(every).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(piece)), rest))
        });
        Body::from_stream(pieces)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_pieces_is_one_and_room_is_given_back() {
        let room = Room::new(4096);
        let (whole, taken) = read(body(vec![b"ab", b"", b"c"], Duration::from_secs(3)), MOST, &room)
            .await
            .unwrap();
        assert_eq!(&*whole, b"abc");
        assert_eq!(room.0.available_permits(), 3, "one KiB for all three");
        drop(taken);
        assert_eq!(room.0.available_permits(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_by_the_byte_is_given_up_on_in_time() {
        let start = Instant::now();
        let slow = body(vec![b"x"; 1000], Duration::from_secs(1));
        let problem = read(slow, MOST, &Room::new(4096)).await.err().unwrap();
        assert_eq!(problem.status(), 408);
        assert_eq!(start.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_gets_its_time() {
        const MIB: &[u8] = &[0; 1 << 20];
        let most = Most {
            bytes: 64 << 20,
            ..MOST
        };
        // 20 s in all: more than a small one gets, and as fast as is asked.
        let large = body(vec![MIB; 10], Duration::from_secs(2));
        let (whole, _) = read(large, most, &Room::new(64 << 20)).await.unwrap();
        assert_eq!(whole.len(), 10 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn too_much_is_refused_and_so_is_what_there_is_no_room_for() {
        let large = || body(vec![&[0; 3000], &[0; 3000]], Duration::ZERO);
        let refused = read(large(), MOST, &Room::new(1 << 20)).await.err().unwrap();
        assert_eq!(refused.status(), 413);
        let most = Most {
            bytes: 1 << 20,
            ..MOST
        };
        let refused = read(large(), most, &Room::new(4096)).await.err().unwrap();
        assert_eq!(refused.status(), 429);
        assert!(read(large(), most, &Room::new(8192)).await.is_ok());
    }
}
