//! Steps of jobs over letters, and of what a host does with the letters of the one it runs.

use futures::future::join_all;
use helix_host::model::UnixMs;
use helix_host::store::{
    Action, Change, Changed, Ending, Error, HeldFilter, Job, JobState, Jobs, Member, Members, NewJob, Parked,
    Standing,
};

use super::super::stage::{LEASE, Store, note};
use super::dice::{Dice, HOLDERS, WORDS};
use super::letters::{became, claim, named};
use super::said;

#[derive(Debug)]
pub enum Step {
    New(Box<NewJob>),
    /// Over the letters of keys that wait.
    OverHeld(Box<NewJob>),
    Take(&'static str),
    /// So many came after it.
    Cancel(usize),
    Results(Option<u64>, Option<Ending>, usize),
    Run(Run),
}

/// What a host does with the job that it takes, or with one that it may have lost.
#[derive(Debug)]
pub struct Run {
    which: Which,
    holder: &'static str,
    doing: Doing,
}

#[derive(Debug)]
enum Which {
    /// The one there is to take, else the newest that runs.
    Taken,
    /// The newest that runs and has letters left.
    Running,
    Newest,
}

#[derive(Debug)]
enum Doing {
    Renew(Option<String>),
    LetGo,
    End(Option<String>),
    /// A change of each of its next letters, some of which are claimed first.
    OneByOne(Vec<(bool, Change)>),
    /// All are claimed, then all are changed, by callers that do not wait for each other.
    AtOnce(Vec<Change>),
    Record(Ending, Option<String>),
    /// Of a letter and a place that have nothing to do with each other.
    Odd(String, u64, Change),
}

impl Dice {
    fn job(&mut self) -> NewJob {
        NewJob {
            id: format!("job {} {}", self.of(&WORDS), self.below(8)),
            action: self.of(&[Action::Reprocess, Action::Discard]),
            filter: self.maybe(),
            rate: None,
            force: self.chance(50),
            reason: self.maybe(),
            actor: self.word(),
            members: if self.chance(60) {
                Members::Matching(self.filter())
            } else {
                Members::Ids((0..self.below(5)).map(|_| self.letter_id()).collect())
            },
        }
    }

    /// Alike, so that they may go together: some by who does not have the letter. What is parked has its own id and waits behind
    /// nothing, so that it does not matter which of them go together.
    fn sent(&mut self, now: UnixMs) -> Change {
        let row = Parked {
            lane: None,
            ..self.copy(now)
        };
        Change::Sent {
            holder: self.of(&[HOLDERS[0], HOLDERS[0], HOLDERS[1]]).to_owned(),
            park: self.chance(50).then(|| Box::new(row)),
        }
    }

    /// Nearly always the same, so that who does something with a job often has it.
    fn runner(&mut self) -> &'static str {
        self.of(&[HOLDERS[0], HOLDERS[0], HOLDERS[0], HOLDERS[1]])
    }

    fn doing(&mut self, now: UnixMs) -> Doing {
        match self.below(20) {
            0 => Doing::Renew(self.maybe()),
            1 => Doing::LetGo,
            2 => Doing::End(self.chance(30).then(|| self.word())),
            3..12 => {
                let changes = (0..=self.below(4)).map(|_| match self.below(10) {
                    0..7 => (true, self.ending(now)),
                    7 => (false, Change::Discard),
                    _ => (false, self.change(now)),
                });
                Doing::OneByOne(changes.collect())
            }
            12..16 => Doing::AtOnce((0..=self.below(12)).map(|_| self.sent(now)).collect()),
            16..18 => Doing::Record(self.of(&Ending::ALL), self.maybe()),
            _ => Doing::Odd(self.letter_id(), self.below(5) as u64, self.change(now)),
        }
    }
}

pub fn step(dice: &mut Dice, now: UnixMs) -> Step {
    match dice.below(20) {
        0..2 => Step::New(Box::new(dice.job())),
        2..4 => Step::OverHeld(Box::new(dice.job())),
        4 => Step::Take(dice.runner()),
        5 => Step::Cancel(dice.below(9)),
        6..8 => Step::Results(
            dice.chance(30).then(|| dice.below(4) as u64),
            dice.chance(30).then(|| dice.of(&Ending::ALL)),
            dice.below(9),
        ),
        _ => Step::Run(Run {
            which: match dice.below(10) {
                0..6 => Which::Taken,
                6..9 => Which::Running,
                _ => Which::Newest,
            },
            holder: dice.runner(),
            doing: dice.doing(now),
        }),
    }
}

/// Postgres takes a number that was used for something that failed out of use.
fn unnumbered(job: Job) -> Job {
    Job { number: 0, ..job }
}

fn seen(answer: Result<Option<Job>, Error>) -> String {
    said(answer.map(|job| job.map(unnumbered)))
}

/// Of an id that is taken each engine says it in its own words.
async fn made(store: &dyn Store, job: NewJob) -> String {
    let made = store.create(job).await;
    said(made.map(unnumbered).map_err(|_| "refused"))
}

async fn member(store: &dyn Store, member: &Member, letter: &str, change: &Change) -> String {
    let named = named(store, letter, change).await;
    let changed = store
        .change_member(member, letter, change.clone(), note("job"))
        .await;
    format!("member {named}{}", became(change, changed))
}

async fn at_once(store: &dyn Store, changes: &[(Member, &str, Change)]) -> String {
    let mut names = Vec::new();
    for (_, letter, change) in changes {
        names.push(named(store, letter, change).await);
    }
    let changed = join_all(changes.iter().map(async |(member, letter, change)| {
        let change = change.clone();
        store.change_member(member, letter, change, note("jobs")).await
    }));
    let changed: Vec<Result<Changed, Error>> = changed.await;
    let said = names
        .into_iter()
        .zip(changed)
        .map(|(named, changed)| format!("together {named}{}", said(changed)));
    said.collect()
}

async fn job(store: &dyn Store, which: &Which, holder: &str) -> Option<Job> {
    while matches!(which, Which::Taken)
        && let Some(job) = Jobs::take(store, holder, LEASE).await.unwrap()
    {
        let left = store.standing(job.number, None, 1).await.unwrap();
        if !left.is_empty() {
            return Some(job);
        }
        // Otherwise it would be taken again and again, and no other.
        store.end(job.number, holder, None).await.unwrap();
    }
    let is_meant = |job: &Job| match which {
        Which::Newest => true,
        Which::Taken | Which::Running => {
            job.state == JobState::Running && job.done + job.failed + job.skipped < job.total
        }
    };
    store.jobs(None, 30).await.unwrap().into_iter().find(is_meant)
}

async fn run(store: &dyn Store, run: &Run) -> String {
    let Some(job) = job(store, &run.which, run.holder).await else {
        return "no job".to_owned();
    };
    let (number, holder) = (job.number, run.holder);
    let at = |place| Member {
        job: number,
        place,
        holder: holder.to_owned(),
    };
    let next = async |many: usize| -> Vec<Standing> { store.standing(number, None, many).await.unwrap() };
    match &run.doing {
        Doing::Renew(trouble) => said(store.renew(number, holder, LEASE, trouble.clone()).await),
        Doing::LetGo => said(store.let_go(number, holder).await),
        Doing::End(failure) => format!("end {}", said(store.end(number, holder, failure.clone()).await)),
        Doing::OneByOne(changes) => {
            let mut text = String::new();
            for (standing, (claimed, change)) in next(changes.len()).await.iter().zip(changes) {
                let place = at(standing.place);
                if *claimed {
                    text += &member(store, &place, &standing.id, &claim(change)).await;
                }
                text += &member(store, &place, &standing.id, change).await;
            }
            text
        }
        Doing::AtOnce(changes) => {
            let next = next(changes.len()).await;
            let letters = || next.iter().map(|next| (at(next.place), next.id.as_str()));
            let claims: Vec<_> = letters()
                .map(|(place, letter)| (place, letter, claim(&Change::Discard)))
                .collect();
            let sent: Vec<_> = letters()
                .zip(changes)
                .map(|((place, letter), change)| (place, letter, change.clone()))
                .collect();
            at_once(store, &claims).await + &at_once(store, &sent).await
        }
        Doing::Record(ending, why) => {
            let place = next(1).await.first().map_or(1, |next| next.place);
            let recorded = Jobs::record(store, &at(place), *ending, why.clone()).await;
            format!("record {} ", said(recorded))
                + &said(Jobs::record(store, &at(place), Ending::Sent, None).await)
        }
        Doing::Odd(letter, place, change) => member(store, &at(*place), letter, change).await,
    }
}

pub async fn take(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::New(job) => made(store, NewJob::clone(job)).await,
        Step::OverHeld(job) => {
            let page = store.held(&HeldFilter::default()).await.unwrap();
            let letters = page.keys.into_iter().map(|key| key.letter);
            let members = Members::Ids(letters.collect());
            let job = NewJob::clone(job);
            made(store, NewJob { members, ..job }).await
        }
        Step::Take(holder) => "job ".to_owned() + &seen(Jobs::take(store, holder, LEASE).await),
        Step::Cancel(newer) => {
            let jobs = store.jobs(None, 9).await.unwrap();
            let id = jobs.get(*newer).map_or("job ?", |job| job.id.as_str());
            seen(Jobs::cancel(store, id, "ann").await)
        }
        Step::Results(after, ending, limit) => {
            let jobs = store.jobs(None, 5).await.unwrap();
            let mut text = String::new();
            for job in jobs {
                text += &format!("{:?}", unnumbered(job.clone()));
                text += &said(store.results(job.number, *after, *ending, *limit).await);
                text += &said(store.standing(job.number, *after, *limit).await);
            }
            text
        }
        Step::Run(doing) => run(store, doing).await,
    }
}
